//! The configuration of a container image, as `silt info` shows it: what would be started, as whom, where, with what.
//!
//! It came with the image and is anybody's text: what is no JSON, or of another shape, is left out or shown as it is.

use serde_json::Value;

/// The whole configuration; a string where it is no JSON.
pub(super) fn config_document(json: &[u8]) -> Value {
    let text = || Value::String(String::from_utf8_lossy(json).into_owned());
    serde_json::from_slice(json).unwrap_or_else(|_| text())
}

/// What it says of starting a program, a line each.
pub(super) fn config_lines(json: &[u8]) -> Vec<(&'static str, String)> {
    let document = config_document(json);
    let config = &document["config"];
    let keys = |value: &Value| -> Option<String> {
        let keys = value.as_object()?.keys().map(|key| printable(key));
        Some(keys.collect::<Vec<_>>().join(" "))
    };
    let shown = [
        ("platform", platform(&document)),
        ("entrypoint", words(&config["Entrypoint"])),
        ("command", words(&config["Cmd"])),
        ("user", config["User"].as_str().map(printable)),
        ("working dir", config["WorkingDir"].as_str().map(printable)),
        ("ports", keys(&config["ExposedPorts"])),
    ];
    let shown = shown.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let env = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let all = shown.chain(env.map(|line| ("env", printable(line))));
    all.filter(|(_, value)| !value.is_empty()).collect()
}

fn platform(document: &Value) -> Option<String> {
    let parts = ["os", "architecture", "variant"].map(|key| document[key].as_str());
    let parts = parts.into_iter().flatten().map(printable).collect::<Vec<_>>();
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// A list of arguments as a JSON list, which cannot be misread.
fn words(value: &Value) -> Option<String> {
    value.as_array().filter(|list| !list.is_empty()).map(|_| printable(&value.to_string()))
}

/// Without what would move the cursor of a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_started_is_shown_and_odd_shapes_are_left_out() {
        let json = br#"{"os": "linux", "architecture": "amd64", "config": {"Cmd": ["sh", "-c", "a b"], "User": "1:1",
            "Env": ["PATH=/bin", "X=\u001b[2J"], "ExposedPorts": {"80/tcp": {}}, "Entrypoint": "odd", "WorkingDir": 7}}"#;
        let expected = [
            ("platform", "linux/amd64"),
            ("command", r#"["sh","-c","a b"]"#),
            ("user", "1:1"),
            ("ports", "80/tcp"),
            ("env", "PATH=/bin"),
            ("env", "X=\u{fffd}[2J"),
        ];
        assert_eq!(config_lines(json), expected.map(|(key, value)| (key, value.to_owned())));
        assert!(config_lines(b"{").is_empty());
        assert_eq!(config_document(b"{"), Value::String("{".into()));
    }
}
