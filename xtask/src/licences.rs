//! Licences of what is built into the product: each must be compatible with Apache-2.0 OR MIT.

use serde_json::Value;
use std::process::Command;

/// Licences whose code may be linked into a program under Apache-2.0 OR MIT.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A line for each dependency whose licence is missing or not allowed.
pub(crate) fn problems() -> Result<Vec<String>, String> {
    let output = Command::new("cargo")
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .output();
    let output = output.map_err(|error| format!("cannot run cargo metadata: {error}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("cargo metadata: {error}: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let refused = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("none");
        let name = package["name"].as_str().unwrap_or("?");
        (!is_allowed(licence))
            .then(|| format!("{name}: licence {licence:?} is not among those allowed"))
    });
    Ok(refused.collect())
}

/// Whether an SPDX expression leaves a choice that is allowed: every part joined by `AND` must be, one joined by `OR`.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], "");
    expression.split(" AND ").all(|all| all.split(" OR ").any(|one| ALLOWED.contains(&one.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_enough_and_a_part_is_not() {
        for good in
            ["MIT", "Apache-2.0/MIT", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"]
        {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["none", "GPL-2.0", "MIT AND GPL-2.0", "AGPL-3.0"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }
}
