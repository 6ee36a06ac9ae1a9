//! A registry of a few lines that misbehaves as it is told: what a good one never does.

use super::*;
use silt_types::{ErrorKind, NoProgress};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};
use tempfile::TempDir;

/// An answer: a status line and headers without their last empty line, and a body. `None` says nothing.
type Answer = Option<(String, Vec<u8>)>;

/// Answers each request, of which it is told the number and the head, on a connection of its own.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(usize, &str) -> Answer + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        thread::spawn(move || {
            let mut silent: Vec<TcpStream> = Vec::new();
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let head = read_head(&connection);
                seen.lock().unwrap().push(head.clone());
                let number = seen.lock().unwrap().len();
                match answer(number, &head) {
                    None => silent.push(connection),
                    Some((head, body)) => {
                        let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
                        let _ = connection.write_all(head.as_bytes());
                        let _ = connection.write_all(&body);
                    }
                }
            }
        });
        Server { port, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// A registry with a store of its own, that is not waited for long.
    fn registry(&self) -> (TempDir, Registry) {
        let dir = tempfile::tempdir().unwrap();
        let access = RegistryAccess {
            plain_http: true,
            silence_max: Duration::from_millis(200),
            pause: Duration::from_millis(1),
            ..RegistryAccess::default()
        };
        let paths = StorePaths::new(dir.path());
        let reference = format!("127.0.0.1:{}/a:1", self.port);
        let registry = Registry::open(&reference, &access, &paths).unwrap();
        (dir, registry)
    }

    fn fetch(&self, content: &[u8]) -> (Result<Vec<u8>>, TempDir) {
        let (dir, registry) = self.registry();
        let layer = Descriptor::bare(Digest::of(content), content.len() as u64);
        let fetched = registry.fetch(&layer, &AtomicBool::new(false), &NoProgress);
        let read = fetched.map(|()| {
            let mut read = Vec::new();
            registry.layer(&layer, &NoProgress).unwrap().read_to_end(&mut read).unwrap();
            read
        });
        (read, dir)
    }
}

fn read_head(connection: &TcpStream) -> String {
    let lines = BufReader::new(connection).lines().map_while(|line| line.ok());
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_ascii_lowercase()
}

fn ok(body: &[u8]) -> Answer {
    Some((format!("200 OK\r\nContent-Length: {}", body.len()), body.to_vec()))
}

fn content() -> Vec<u8> {
    (0..100_000u32).flat_map(|n| n.to_le_bytes()).collect()
}

#[test]
fn a_registry_that_says_nothing_is_given_up_in_time() {
    let server = Server::start(|_, _| None);
    let (_dir, registry) = server.registry();
    let started = Instant::now();
    let error = registry.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("does not answer"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(server.heads().len(), 5, "so many attempts");
}

#[test]
fn one_that_stops_within_a_layer_is_asked_to_go_on() {
    let whole = content();
    let sent = whole.clone();
    let server = Server::start(move |_, head| {
        let from = head.split("range: bytes=").nth(1);
        let from: usize = from.map_or(0, |from| from.split('-').next().unwrap().parse().unwrap());
        let until = sent.len().min(from + 150_000);
        let (status, rest) = (if from > 0 { "206 P" } else { "200 OK" }, sent.len() - from);
        let range = format!("bytes {from}-{}/{}", sent.len() - 1, sent.len());
        let head = format!("{status}\r\nContent-Length: {rest}\r\nContent-Range: {range}");
        Some((head, sent[from..until].to_vec()))
    });
    assert!(server.fetch(&whole).0.unwrap() == whole);
    assert_eq!(server.heads().iter().filter(|head| head.contains("range: ")).count(), 2);
}

#[test]
fn one_that_cannot_go_on_is_asked_for_all_again() {
    let whole = content();
    let sent = whole.clone();
    let server = Server::start(move |number, _| {
        let len = if number == 1 { 1000 } else { sent.len() };
        Some((format!("200 OK\r\nContent-Length: {}", sent.len()), sent[..len].to_vec()))
    });
    assert!(server.fetch(&whole).0.unwrap() == whole);
}

#[test]
fn one_that_answers_with_another_part_is_not_believed() {
    let whole = content();
    let sent = whole.clone();
    let server = Server::start(move |number, head| match number {
        1 => Some((format!("200 OK\r\nContent-Length: {}", sent.len()), sent[..1000].to_vec())),
        2 => Some((
            format!("206 P\r\nContent-Length: 10\r\nContent-Range: bytes 5-14/{}", sent.len()),
            sent[5..15].to_vec(),
        )),
        _ => {
            assert!(!head.contains("range: "), "all over again");
            ok(&sent)
        }
    });
    assert!(server.fetch(&whole).0.unwrap() == whole);
}

#[test]
fn layers_that_are_longer_shorter_or_others_are_refused_and_not_kept() {
    let whole = content();
    let mut other = whole.clone();
    other[7] ^= 1;
    let endless = [&whole[..], &[0; 1000]].concat();
    for (sent, kind) in [
        (other, ErrorKind::Corrupt),
        (endless, ErrorKind::Corrupt),
        (whole[..1000].to_vec(), ErrorKind::Io),
    ] {
        let server = Server::start(move |_, _| ok(&sent));
        let (fetched, dir) = server.fetch(&whole);
        assert_eq!(fetched.unwrap_err().kind(), kind);
        let left = std::fs::read_dir(dir.path().join("caches/blobs")).unwrap().count();
        assert_eq!(left, usize::from(kind == ErrorKind::Io), "{kind:?}");
    }
}

#[test]
fn a_token_is_fetched_from_where_the_registry_says_and_used() {
    let manifest = br#"{"config": {"digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0}, "layers": []}"#;
    let port = Arc::new(Mutex::new(0));
    let told = port.clone();
    let server = Server::start(move |_, head| {
        if head.starts_with("get /token?") {
            assert!(head.contains("scope=repository") && head.contains("service=s"), "{head}");
            return ok(br#"{"token": "t1"}"#);
        }
        if head.contains("authorization: bearer t1") {
            return ok(manifest);
        }
        let realm = format!("http://127.0.0.1:{}/token", told.lock().unwrap());
        let challenge = format!(r#"Bearer realm="{realm}",service="s",scope="x""#);
        Some((format!("401 No\r\nContent-Length: 0\r\nWWW-Authenticate: {challenge}"), Vec::new()))
    });
    *port.lock().unwrap() = server.port;
    assert!(matches!(server.registry().1.start(), Ok(Document::Manifest(_))));
}

#[test]
fn what_may_pass_is_tried_again_and_what_may_not_is_not() {
    let tried = |status: &'static str| {
        let server =
            Server::start(move |_, _| Some((format!("{status}\r\nContent-Length: 0"), Vec::new())));
        let kind = server.registry().1.start().unwrap_err().kind();
        (kind, server.heads().len())
    };
    assert_eq!(tried("503 Busy"), (ErrorKind::Io, 5));
    assert_eq!(tried("429 Slow"), (ErrorKind::Io, 5));
    assert_eq!(tried("404 No"), (ErrorKind::NotFound, 1));
    assert_eq!(tried("403 No"), (ErrorKind::Io, 1));
    assert_eq!(tried("400 Bad"), (ErrorKind::Io, 1));
}

#[test]
fn a_manifest_that_is_too_long_or_not_what_it_is_called_is_refused() {
    let server = Server::start(|_, _| ok(&vec![b' '; 5 << 20]));
    assert_eq!(server.registry().1.start().unwrap_err().kind(), ErrorKind::Invalid);
    let server = Server::start(|_, _| {
        let digest = format!("Docker-Content-Digest: {}", Digest::of(b"other"));
        Some((format!("200 OK\r\nContent-Length: 2\r\n{digest}"), b"{}".to_vec()))
    });
    assert_eq!(server.registry().1.start().unwrap_err().kind(), ErrorKind::Corrupt);
}
