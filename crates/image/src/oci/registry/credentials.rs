//! Credentials: who one is to a registry, as docker and podman keep it. Which files are looked into the caller says.
//!
//! Formats: `config.json` of docker and `auth.json` of podman (containers-auth.json(5)), and the protocol of docker's
//! credential helpers, programs called `docker-credential-NAME`.

use super::super::blobs::{open_regular, read_limited};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Who one is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A name and a password.
    Password(String, String),
    /// A token that stands for both.
    IdentityToken(String),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The credentials for a repository in the first of `files` that has some. `Invalid` for a file that cannot be understood,
/// `Io` for a helper that fails: to go on as nobody would hide why.
pub(super) fn find(files: &[PathBuf], host: &str, repository: &str) -> Result<Option<Credentials>> {
    for file in files {
        let bytes = match open_regular(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => read_limited(opened?, &format!("file {}", file.display()))?,
        };
        let config: ConfigFile = serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("{} holds no credentials", file.display());
            Error::with_source(ErrorKind::Invalid, message, error)
        })?;
        let found = find_in(&config, host, repository).context(|| in_file(file))?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Reads bytes as a file of credentials. No helper is asked.
pub(super) fn read(bytes: &[u8]) {
    if let Ok(config) = serde_json::from_slice::<ConfigFile>(bytes) {
        let _ = find_auth(&config, "h", "a/b").map(read_auth);
    }
}

fn in_file(file: &Path) -> String {
    format!("cannot get the credentials that {} promises", file.display())
}

fn find_in(config: &ConfigFile, host: &str, repository: &str) -> Result<Option<Credentials>> {
    let server = server_key(host);
    if let Some(helper) = config.cred_helpers.get(host).filter(|helper| !helper.is_empty()) {
        return ask_helper(helper, &server);
    }
    if let Some(auth) = find_auth(config, host, repository) {
        let found = read_auth(auth)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    match config.creds_store.as_deref().filter(|helper| !helper.is_empty()) {
        Some(helper) => ask_helper(helper, &server),
        None => Ok(None),
    }
}

/// What docker files credentials for docker.io under; others go by their host.
fn server_key(host: &str) -> String {
    match host {
        "docker.io" => "https://index.docker.io/v1/".into(),
        _ => host.into(),
    }
}

/// The entry that says most about the repository: podman has them for `HOST/PATH`, too.
fn find_auth<'a>(config: &'a ConfigFile, host: &str, repository: &str) -> Option<&'a Auth> {
    let mut key = format!("{host}/{repository}");
    while let Some((shorter, _)) = key.rsplit_once('/') {
        if let Some(auth) = config.auths.get(&key) {
            return Some(auth);
        }
        key = shorter.to_owned();
    }
    let names_host = |key: &&String| {
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
        let named = rest.map_or(key.as_str(), |rest| rest.split('/').next().unwrap_or_default());
        named == host
            || host == "docker.io" && ["index.docker.io", "registry-1.docker.io"].contains(&named)
    };
    config.auths.iter().find(|(key, _)| names_host(key)).map(|(_, auth)| auth)
}

fn read_auth(auth: &Auth) -> Result<Option<Credentials>> {
    if let Some(token) = auth.identitytoken.as_ref().filter(|token| !token.is_empty()) {
        return Ok(Some(Credentials::IdentityToken(token.clone())));
    }
    // An entry without content says that a helper has it.
    let Some(encoded) = auth.auth.as_deref().filter(|auth| !auth.is_empty()) else {
        return Ok(None);
    };
    let decoded = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
    let (name, password) = pair.ok_or_else(|| Error::invalid("an entry of it is damaged"))?;
    // Docker pads passwords with zeros.
    let password = password.trim_end_matches('\0');
    Ok(Some(Credentials::Password(name.to_owned(), password.to_owned())))
}

/// Asks a credential helper. `None` if it knows none.
fn ask_helper(name: &str, server: &str) -> Result<Option<Credentials>> {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(Error::invalid(format!("{name:?} is no credential helper")));
    }
    let program = format!("docker-credential-{name}");
    let failed = || format!("cannot run {program}");
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(failed)?;
    // A helper that does not read it says so by its answer.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(server.as_bytes()));
    let answer = match child.stdout.take() {
        Some(stdout) => read_limited(stdout, "answer of the helper")?,
        None => Vec::new(),
    };
    if !child.wait().context(failed)?.success() {
        // "credentials not found" is the one failure that the protocol names; helpers word others as they like.
        let text = String::from_utf8_lossy(&answer);
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let told: String = text.trim().chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(Error::new(ErrorKind::Io, format!("{program} failed: {told}")));
    }
    let helped: Helped = serde_json::from_slice(&answer).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, format!("{program} answered what is none"), error)
    })?;
    Ok(Some(match helped.username.as_str() {
        "<token>" => Credentials::IdentityToken(helped.secret),
        _ => Credentials::Password(helped.username, helped.secret),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, host: &str, repository: &str) -> Option<Credentials> {
        find_in(&serde_json::from_str(json).unwrap(), host, repository).unwrap()
    }

    fn password(name: &str) -> Option<Credentials> {
        Some(Credentials::Password(name.into(), "p:w".into()))
    }

    #[test]
    fn the_entry_that_says_most_counts() {
        let auth =
            |name: &str| format!(r#"{{"auth": "{}"}}"#, STANDARD.encode(format!("{name}:p:w\0")));
        let json = format!(
            r#"{{"auths": {{"h:5000": {}, "h:5000/a/b": {}, "https://index.docker.io/v1/": {}, "x": {{}}}}}}"#,
            auth("host"),
            auth("deep"),
            auth("docker")
        );
        assert!(found(&json, "h:5000", "a/c") == password("host"));
        assert!(found(&json, "h:5000", "a/b/c") == password("deep"));
        assert!(found(&json, "docker.io", "library/debian") == password("docker"));
        assert!(found(&json, "x", "a").is_none());
        assert!(found(&json, "h", "a").is_none());
        let token = r#"{"auths": {"h": {"auth": "", "identitytoken": "t"}}}"#;
        assert!(found(token, "h", "a") == Some(Credentials::IdentityToken("t".into())));
    }

    #[test]
    fn damaged_entries_and_bad_helpers_are_errors() {
        for json in [
            r#"{"auths": {"h": {"auth": "!"}}}"#,
            r#"{"credHelpers": {"h": "../../bin/sh"}}"#,
            r#"{"credsStore": "no-such-helper-anywhere"}"#,
        ] {
            assert!(find_in(&serde_json::from_str(json).unwrap(), "h", "a").is_err(), "{json}");
        }
    }
}
