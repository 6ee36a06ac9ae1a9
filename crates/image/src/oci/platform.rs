//! For which machine an image is: what is asked for, and which of several fits.

use super::documents::{Descriptor, DescriptorPlatform};
use silt_types::{Error, Result};
use std::fmt;

/// A platform: `OS/ARCHITECTURE[/VARIANT]`, in the words of Go, which images use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
    /// Whether somebody asked for it, or it is what this machine is.
    pub(crate) is_asked: bool,
}

impl Platform {
    /// Reads what was asked for; Linux on the machine's architecture where nothing was. `Invalid` for what is none.
    pub(crate) fn parse(text: Option<&str>) -> Result<Platform> {
        let Some(text) = text else {
            let (architecture, variant) = machine(std::env::consts::ARCH);
            let (os, variant) = ("linux".into(), variant.map(str::to_owned));
            let architecture = architecture.to_owned();
            return Ok(Platform { os, architecture, variant, is_asked: false });
        };
        let parts: Vec<&str> = text.split('/').collect();
        let is_good = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        let (2 | 3, true) = (parts.len(), parts.iter().all(is_good)) else {
            let message = format!("bad platform {text:?}: give OS/ARCHITECTURE, as in linux/arm64");
            return Err(Error::invalid(message));
        };
        Ok(Platform {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|part| (*part).to_owned()),
            is_asked: true,
        })
    }

    /// Whether an image for `found` is what is wanted. Without a variant asked for, any is.
    pub(crate) fn fits(&self, found: &DescriptorPlatform) -> bool {
        let usual = usual_variant(&self.architecture);
        let variant = found.variant.as_deref().filter(|variant| !variant.is_empty()).or(usual);
        self.os == found.os
            && self.architecture == found.architecture
            && self.variant.as_deref().is_none_or(|wanted| Some(wanted) == variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl fmt::Display for DescriptorPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// The variant that an image without one is for.
fn usual_variant(architecture: &str) -> Option<&'static str> {
    match architecture {
        "arm64" => Some("v8"),
        "arm" => Some("v7"),
        "amd64" => Some("v1"),
        _ => None,
    }
}

/// What images call a machine that Rust calls `arch`.
fn machine(arch: &str) -> (&str, Option<&'static str>) {
    match arch {
        "x86_64" => ("amd64", None),
        "x86" => ("386", None),
        "aarch64" => ("arm64", Some("v8")),
        "arm" => ("arm", Some("v7")),
        "powerpc64" => ("ppc64le", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    }
}

/// The platforms of an index for people, each once.
pub(crate) fn listed(all: &[Descriptor]) -> String {
    let named = all.iter().filter_map(|one| one.platform.as_ref());
    let mut names: Vec<String> = named.map(DescriptorPlatform::to_string).collect();
    names.retain(|name| name != "unknown/unknown"); // Attestations, which are no images.
    names.sort();
    names.dedup();
    if names.is_empty() { "none with a platform".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_fit_as_container_engines_have_it() {
        let found = |text: &str| {
            let mut parts = text.split('/').map(str::to_owned);
            let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
            DescriptorPlatform { os, architecture, variant: parts.next() }
        };
        let fits = |wanted: &str, is: &str| Platform::parse(Some(wanted)).unwrap().fits(&found(is));
        for (wanted, is) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/amd64", "linux/amd64/v1"),
            ("linux/arm64", "linux/arm64/v8"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v6", "linux/arm/v6"),
        ] {
            assert!(fits(wanted, is), "{wanted} {is}");
        }
        for (wanted, is) in [
            ("linux/amd64", "windows/amd64"),
            ("linux/arm64", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v7"),
            ("linux/arm64/v9", "linux/arm64"),
        ] {
            assert!(!fits(wanted, is), "{wanted} {is}");
        }
        assert!(Platform::parse(None).unwrap().to_string().starts_with("linux/"));
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/../x"] {
            assert!(Platform::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
