//! Asking a registry: over TLS unless told otherwise, again where an answer may come the next time, and as whom it wants.
//!
//! Not for what is done with the answers. One client is of one repository.

use super::{
    RegistryAccess,
    credentials::{self, Credentials},
    reference::Reference,
    told_digest,
};
use crate::oci::{blobs::read_limited, digest::Digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use silt_types::{Error, ErrorKind, Result};
use std::{
    io::Read,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use ureq::{
    Agent, Body, RequestBuilder,
    http::{HeaderMap, Response, StatusCode, header},
    tls::{Certificate, RootCerts, TlsConfig},
    typestate::WithoutBody,
};

/// Times that something is tried that may come out otherwise the next time.
const ATTEMPTS_MAX: u32 = 5;
/// What a registry that is asked too often may have us wait.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A repository of a registry.
pub(super) struct Client {
    agent: Agent,
    /// Host of the registry, and of the server that answers for it.
    reference: Reference,
    credential_files: Vec<PathBuf>,
    plain_http: bool,
    pause: Duration,
    /// `https://HOST` or `http://HOST`, once that is known.
    base: OnceLock<String>,
    /// The header by which we say who asks.
    authorization: Mutex<Option<String>>,
}

/// Why there is no answer.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Whether there may be one the next time, and what the registry wants waited before.
    pub(super) passes: Option<Duration>,
}

impl Failure {
    pub(super) fn for_good(error: Error) -> Failure {
        Failure { error, passes: None }
    }

    pub(super) fn passing(error: Error) -> Failure {
        Failure { error, passes: Some(Duration::ZERO) }
    }
}

impl Client {
    /// Nothing is asked yet.
    pub(super) fn new(reference: &Reference, access: &RegistryAccess) -> Result<Client> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(access.connect_max))
            .timeout_connect(Some(access.connect_max))
            .timeout_per_read(Some(access.silence_max))
            .timeout_per_write(Some(access.silence_max))
            .user_agent(concat!("siltstone/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls()?);
        // Nobody reaches this machine's loopback for us.
        let config = if reference.is_loopback() { config.proxy(None) } else { config };
        Ok(Client {
            agent: config.build().new_agent(),
            reference: reference.clone(),
            credential_files: access.credential_files.clone(),
            plain_http: access.plain_http,
            pause: access.pause,
            base: OnceLock::new(),
            authorization: Mutex::default(),
        })
    }

    /// Reads a document of the repository, and what the registry says is its digest.
    pub(super) fn document(
        &self,
        path: &str,
        accept: &[&str],
    ) -> Result<(Vec<u8>, Option<Digest>)> {
        self.with_attempts(&AtomicBool::new(false), &mut |_| {
            let response = self.get(path, accept, None)?;
            let told = response.headers().get("docker-content-digest");
            let told = told_digest(told.and_then(|told| told.to_str().ok()));
            let json = read_limited(response.into_body().into_reader(), "answer of the registry");
            match json {
                Ok(json) => Ok((json, told)),
                Err(error) if error.kind() == ErrorKind::Io => Err(Failure::passing(error)),
                Err(error) => Err(Failure::for_good(error)),
            }
        })
    }

    /// Does something until it is done, cannot be done, or was tried often enough; `f` is told by what it may count attempts
    /// anew. Waits longer each time.
    pub(super) fn with_attempts<T>(
        &self,
        stop: &AtomicBool,
        f: &mut dyn FnMut(&mut u32) -> Result<T, Failure>,
    ) -> Result<T> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let Failure { error, passes } = match f(&mut attempt) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            let Some(asked) = passes.filter(|_| attempt < ATTEMPTS_MAX && !stop.load(Relaxed))
            else {
                return Err(error);
            };
            let pause = self.pause * (1 << attempt.saturating_sub(1));
            wait(pause.max(asked).min(WAIT_MAX), stop);
        }
    }

    /// Asks for something of the repository, from byte `from` on; proves who asks where that is wanted.
    pub(super) fn get(
        &self,
        path: &str,
        accept: &[&str],
        from: Option<u64>,
    ) -> Result<Response<Body>, Failure> {
        let base = self.base()?;
        let url = format!("{base}/v2/{}/{path}", self.reference.repository);
        let mut is_renewed = false;
        loop {
            let authorization = self.authorization();
            let mut request = self.agent.get(&url);
            if !accept.is_empty() {
                request = request.header(header::ACCEPT, accept.join(", "));
            }
            if let Some(authorization) = &authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = self.send(request)?;
            if response.status() != StatusCode::UNAUTHORIZED || is_renewed {
                return self.check(response, path);
            }
            is_renewed = true;
            self.authorize(response.headers(), authorization.as_deref(), base)?;
        }
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn send(&self, request: RequestBuilder<WithoutBody>) -> Result<Response<Body>, Failure> {
        request.call().map_err(|error| self.unanswered(error))
    }

    /// Why there was no answer at all.
    fn unanswered(&self, error: ureq::Error) -> Failure {
        use ureq::Error as U;
        let server = self.reference.server();
        let (what, passes) = match &error {
            error if tls_error(error).is_some() => ("cannot be spoken to by TLS", false),
            U::Timeout(_) => ("does not answer", true),
            U::HostNotFound => ("is unknown", false),
            U::Io(_) | U::ConnectionFailed | U::Protocol(_) | U::BodyStalled => {
                ("cannot be reached", true)
            }
            _ => ("cannot be asked", false),
        };
        let message = format!("the registry {server} {what}");
        let error = Error::with_source(ErrorKind::Io, message, error);
        if passes { Failure::passing(error) } else { Failure::for_good(error) }
    }

    /// Where the registry is. One on this machine is asked once whether it speaks TLS.
    fn base(&self) -> Result<&str, Failure> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let server = self.reference.server();
        let is_plain =
            self.plain_http || self.reference.is_loopback() && self.has_no_tls(server)?;
        let scheme = if is_plain { "http" } else { "https" };
        Ok(self.base.get_or_init(|| format!("{scheme}://{server}")))
    }

    /// A certificate that is not to be trusted is TLS all the same, and silence says nothing.
    fn has_no_tls(&self, server: &str) -> Result<bool, Failure> {
        match self.agent.get(format!("https://{server}/v2/")).call() {
            Ok(_) => Ok(false),
            Err(error @ ureq::Error::Timeout(_)) => Err(self.unanswered(error)),
            Err(error) => {
                Ok(!matches!(tls_error(&error), Some(rustls::Error::InvalidCertificate(_))))
            }
        }
    }

    /// An answer that is one, or what its status says.
    fn check(&self, response: Response<Body>, path: &str) -> Result<Response<Body>, Failure> {
        let status = response.status();
        if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        let server = self.reference.server();
        let said = |kind, message: String| Error::new(kind, message);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::for_good(self.refused()),
            StatusCode::NOT_FOUND => {
                let message = format!("the registry {server} has no {path} of {}", self.reference);
                Failure::for_good(said(ErrorKind::NotFound, message))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                let message = format!("the registry {server} is asked too often ({status})");
                let wait = response.headers().get(header::RETRY_AFTER);
                let wait = wait.and_then(|wait| wait.to_str().ok()?.trim().parse().ok());
                let wait = Duration::from_secs(wait.unwrap_or(0));
                Failure { error: said(ErrorKind::Io, message), passes: Some(wait) }
            }
            _ => {
                let message =
                    format!("the registry {server} answers {status} when asked for {path}");
                let error = said(ErrorKind::Io, message);
                let passes = status.is_server_error();
                if passes { Failure::passing(error) } else { Failure::for_good(error) }
            }
        })
    }

    fn refused(&self) -> Error {
        let (server, repository) = (self.reference.server(), &self.reference.repository);
        let files: Vec<String> =
            self.credential_files.iter().map(|file| file.display().to_string()).collect();
        let looked =
            if files.is_empty() { "nowhere".into() } else { format!("in {}", files.join(", ")) };
        let message = match self.credentials() {
            Ok(None) => format!(
                "the registry {server} gives {repository} to nobody without credentials; they are looked for {looked}"
            ),
            _ => format!(
                "the registry {server} does not give {repository} to the user whose credentials were found"
            ),
        };
        Error::new(ErrorKind::Io, message)
    }

    fn credentials(&self) -> Result<Option<Credentials>> {
        credentials::find(&self.credential_files, &self.reference.host, &self.reference.repository)
    }

    /// Does what the registry asks for to prove who asks; nothing if somebody did since `before`.
    fn authorize(
        &self,
        headers: &HeaderMap,
        before: Option<&str>,
        base: &str,
    ) -> Result<(), Failure> {
        let mut authorization = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        if authorization.as_deref() != before {
            return Ok(());
        }
        let credentials = self.credentials().map_err(Failure::for_good)?;
        let challenges: Vec<Challenge> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        let by = |scheme: &str| challenges.iter().find(|one| one.scheme == scheme);
        let proof = if let Some(bearer) = by("bearer") {
            format!("Bearer {}", self.token(bearer, credentials.as_ref(), base)?)
        } else if let (Some(_), Some(Credentials::Password(name, password))) =
            (by("basic"), &credentials)
        {
            basic(name, password)
        } else {
            return Err(Failure::for_good(self.refused()));
        };
        *authorization = Some(proof);
        Ok(())
    }

    /// Fetches a token from where the registry sends us.
    fn token(
        &self,
        challenge: &Challenge,
        credentials: Option<&Credentials>,
        base: &str,
    ) -> Result<String, Failure> {
        let realm = challenge.get("realm").unwrap_or_default();
        let is_safe = realm.starts_with("https://")
            || realm.starts_with("http://") && base.starts_with("http://");
        if !is_safe {
            let message = format!(
                "the registry {} wants tokens fetched from {realm:?}",
                self.reference.server()
            );
            return Err(Failure::for_good(Error::invalid(message)));
        }
        let service = challenge.get("service").unwrap_or_default();
        let scope = format!("repository:{}:pull", self.reference.repository);
        let answered = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "siltstone"),
                    ("service", service),
                    ("scope", &scope),
                    ("refresh_token", token),
                ];
                self.agent.post(realm).send_form(form)
            }
            _ => {
                let request =
                    self.agent.get(realm).query("service", service).query("scope", &scope);
                match credentials {
                    Some(Credentials::Password(name, password)) => {
                        request.header(header::AUTHORIZATION, basic(name, password)).call()
                    }
                    _ => request.call(),
                }
            }
        };
        let response = answered.map_err(|error| self.unanswered(error))?;
        let response = self.check(response, "token")?;
        read_token(response.into_body().into_reader()).map_err(Failure::for_good)
    }
}

/// Reads what a registry may want.
pub(super) fn read_challenge(text: &str) {
    let _ = Challenge::parse(text).map(|challenge| challenge.get("realm").is_some());
}

/// What TLS did not like.
fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// Waits, or until `stop` is set.
fn wait(long: Duration, stop: &AtomicBool) {
    let until = Instant::now() + long;
    while !stop.load(Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// TLS by the certificates that this machine trusts.
fn tls() -> Result<TlsConfig> {
    static ROOTS: OnceLock<Arc<Vec<Certificate<'static>>>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        // A machine without any can still speak to registries without TLS; TLS will say that it trusts nobody.
        let found = rustls_native_certs::load_native_certs().certs;
        Arc::new(found.iter().map(|one| Certificate::from_der(one).to_owned()).collect())
    });
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = TlsConfig::builder().unversioned_rustls_crypto_provider(provider);
    Ok(config.root_certs(RootCerts::Specific(roots.clone())).build())
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

fn read_token(body: impl Read) -> Result<String> {
    #[derive(Deserialize)]
    struct Token {
        token: Option<String>,
        access_token: Option<String>,
    }
    let json = read_limited(body, "token")?;
    let token: Option<Token> = serde_json::from_slice(&json).ok();
    let token = token.and_then(|token| token.token.or(token.access_token));
    // It becomes a part of a header.
    let token =
        token.filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
    token.ok_or_else(|| Error::invalid("what should give a token gives none"))
}

/// How a registry wants it proved who asks.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    /// In small letters.
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Reads `WWW-Authenticate` (RFC 9110, section 11.6.1) with one challenge in it.
    fn parse(text: &str) -> Option<Challenge> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((key, behind)) = rest.split_once('=') {
            let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
            let (value, behind) = match behind.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => behind.split_once(',').unwrap_or((behind, "")),
            };
            parameters.push((key, value.trim().to_owned()));
            rest = behind;
        }
        Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let text = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull,push""#;
        let bearer = Challenge::parse(text).unwrap();
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(bearer.get("scope"), Some("repository:a:pull,push"));
        let basic = Challenge::parse("Basic realm=plain, charset=UTF-8").unwrap();
        assert_eq!((basic.get("realm"), basic.get("charset")), (Some("plain"), Some("UTF-8")));
        assert_eq!(Challenge::parse("Negotiate").unwrap().parameters, []);
        assert_eq!(Challenge::parse(r#"Bearer realm="open"#), None);
    }

    #[test]
    fn a_token_that_would_break_a_header_is_none() {
        assert_eq!(read_token(&br#"{"access_token": "t.1-_"}"#[..]).unwrap(), "t.1-_");
        for bad in [&b"{}"[..], b"x", br#"{"token": "a\r\nX: y"}"#, br#"{"token": ""}"#] {
            assert!(read_token(bad).is_err());
        }
    }
}
