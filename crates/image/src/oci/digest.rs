//! Digests: the names of blobs, and reading a blob while checking that it is the one that was named.
//!
//! What a [`Checked`] reader gives out is not known to be right before [`Checked::finish`] says so.

use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};
use silt_types::{Context as _, Error, ErrorKind, Result};
use std::{
    fmt::{self, Write as _},
    io::{self, Read},
};

/// The name of a blob: an algorithm, a colon, and hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Digest(String);

impl Digest {
    /// Reads a digest. `Unsupported` for an algorithm other than sha256 and sha512, `Invalid` for what is none.
    pub(crate) fn parse(text: &str) -> Result<Digest> {
        let shown: String = text.chars().take(160).collect();
        let (algorithm, hex) = text
            .split_once(':')
            .ok_or_else(|| Error::invalid(format!("{shown:?} is no digest")))?;
        let len = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => {
                let message = format!("the digest {shown:?} is neither sha256 nor sha512");
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != len || !hex.bytes().all(is_hex) {
            return Err(Error::invalid(format!("{shown:?} is no digest")));
        }
        Ok(Digest(text.to_owned()))
    }

    /// The digest of bytes in memory.
    #[cfg(test)]
    pub(crate) fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::Sha256(Sha256::new());
        hasher.update(bytes);
        Digest(hasher.finish())
    }

    /// As it is written: `sha256:…`.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm and the hexadecimal digits.
    pub(crate) fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }

    /// As the name of a file.
    pub(crate) fn file_name(&self) -> String {
        self.0.replace(':', "-")
    }

    /// A hasher by the algorithm of this digest.
    pub(crate) fn hasher(&self) -> Hasher {
        match self.parts().0 {
            "sha512" => Hasher::Sha512(Sha512::new()),
            _ => Hasher::Sha256(Sha256::new()),
        }
    }

    /// `Corrupt`, naming the digest, unless `bytes` are what it names. `what` says what they are.
    pub(crate) fn check(&self, what: &str, bytes: &[u8]) -> Result<()> {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        self.check_found(what, &hasher.finish())
    }

    /// The same for a digest that was computed.
    pub(crate) fn check_found(&self, what: &str, found: &str) -> Result<()> {
        if found == self.0 {
            return Ok(());
        }
        Err(Error::corrupt(format!("the {what} {self} is damaged: its digest is {found}")))
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Digest, String> {
        Digest::parse(&text).map_err(|error| error.to_string())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest as it is written.
    pub(crate) fn finish(self) -> String {
        match self {
            Hasher::Sha256(hasher) => written("sha256", &hasher.finalize()),
            Hasher::Sha512(hasher) => written("sha512", &hasher.finalize()),
        }
    }
}

fn written(algorithm: &str, hash: &[u8]) -> String {
    hash.iter().fold(format!("{algorithm}:"), |mut text, byte| {
        // A string takes all that is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a blob and computes its digest on the way. Never gives out more than the blob is to have.
pub(crate) struct Checked<R> {
    inner: R,
    what: &'static str,
    digest: Digest,
    hasher: Hasher,
    /// Length that the blob is to have, where that is known.
    size_bytes: Option<u64>,
    read: u64,
}

impl<R: Read> Checked<R> {
    /// Reads `inner`, which is to be the blob named `digest`; `what` it is, in errors.
    pub(crate) fn new(
        inner: R,
        what: &'static str,
        digest: &Digest,
        size_bytes: Option<u64>,
    ) -> Checked<R> {
        let (hasher, digest) = (digest.hasher(), digest.clone());
        Checked { inner, what, digest, hasher, size_bytes, read: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Reads what is left, and says whether all of it was the blob. `Corrupt`, naming the digest, if it was not.
    pub(crate) fn finish(mut self) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer);
            if read.context(|| format!("cannot read the {} {}", self.what, self.digest))? == 0 {
                break;
            }
        }
        let Checked { mut inner, what, digest, hasher, size_bytes, read } = self;
        if let Some(size) = size_bytes {
            let more = read == size && inner.read(&mut [0]).is_ok_and(|len| len > 0);
            if read != size || more {
                let is = if more { "longer".to_owned() } else { format!("{read} bytes long") };
                let message = format!("the {what} {digest} is {is} instead of {size} bytes");
                return Err(Error::corrupt(message));
            }
        }
        digest.check_found(what, &hasher.finish())
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size_bytes.map_or(u64::MAX, |size| size - self.read);
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = self.inner.read(&mut buffer[..want])?;
        self.hasher.update(&buffer[..got]);
        self.read += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_strictly() {
        let good = Digest::of(b"");
        assert_eq!(good.as_str().len(), 71);
        assert_eq!(Digest::parse(good.as_str()).unwrap(), good);
        assert!(Digest::parse(&format!("sha512:{}", "a".repeat(128))).is_ok());
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../../etc/shadow",
            &format!("sha256:{}", "A".repeat(64)),
            &format!("sha256:{}", "a".repeat(63)),
            &format!("md5:{}", "a".repeat(32)),
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_blob_of_another_length_or_content_is_named() {
        let check = |bytes: &[u8], size| {
            let mut checked = Checked::new(bytes, "layer", &Digest::of(b"content"), size);
            let mut read = Vec::new();
            checked.by_ref().take(3).read_to_end(&mut read).unwrap();
            checked.finish()
        };
        check(b"content", Some(7)).unwrap();
        check(b"content", None).unwrap();
        for (bytes, size) in [
            (&b"contenu"[..], Some(7)),
            (b"conten", Some(7)),
            (b"content!", Some(7)),
            (b"content", Some(8)),
            (b"content!", None),
        ] {
            let error = check(bytes, size).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(Digest::of(b"content").as_str()), "{error}");
        }
    }
}
