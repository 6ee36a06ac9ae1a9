//! Clients on their way to another server: what that has to know of each, in words.
//!
//! The words go between two processes of one user, over the control socket of the one that ends. They are checked all the
//! same: what a client may ask is held against them.

use super::{
    limits::CLIENTS_MAX,
    request::Session,
    wire::{Headers, RequestHeader},
};
use serde::{Deserialize, Serialize};
use silt_types::{Error, ErrorKind, Result};
use silt_volume::Geometry;
use std::os::fd::OwnedFd;

/// A client between two requests.
#[derive(Debug)]
pub(super) struct PassedClient {
    pub(super) socket: OwnedFd,
    pub(super) session: Session,
    /// The beginning of its next request.
    pub(super) received: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Words {
    clients: Vec<ClientWords>,
}

#[derive(Serialize, Deserialize)]
struct ClientWords {
    size_bytes: u64,
    read_only: bool,
    headers: HeadersWord,
    allocation: bool,
    received: Vec<u8>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeadersWord {
    Simple,
    Structured,
    Extended,
}

/// Words and sockets, in the same order.
pub(super) fn put(clients: Vec<PassedClient>) -> Result<(String, Vec<OwnedFd>)> {
    let words_of = |client: &PassedClient| ClientWords {
        size_bytes: client.session.geometry.size_bytes,
        read_only: client.session.geometry.read_only,
        headers: match client.session.headers {
            Headers::Simple => HeadersWord::Simple,
            Headers::Structured => HeadersWord::Structured,
            Headers::Extended => HeadersWord::Extended,
        },
        allocation: client.session.allocation,
        received: client.received.clone(),
    };
    let words = Words { clients: clients.iter().map(words_of).collect() };
    let words = serde_json::to_string(&words).map_err(|error| {
        Error::with_source(ErrorKind::Internal, "cannot tell of clients in JSON", error)
    })?;
    Ok((words, clients.into_iter().map(|client| client.socket).collect()))
}

/// The other way. `Invalid` if words and sockets do not make clients.
pub(super) fn take(words: &str, sockets: Vec<OwnedFd>) -> Result<Vec<PassedClient>> {
    let words: Words = serde_json::from_str(words).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, "what was told of clients is not readable", error)
    })?;
    let count = words.clients.len();
    if count != sockets.len() || count > CLIENTS_MAX {
        let sockets = sockets.len();
        return Err(Error::invalid(format!(
            "{count} clients were passed on with {sockets} sockets"
        )));
    }
    words.clients.into_iter().zip(sockets).map(|(words, socket)| client(words, socket)).collect()
}

fn client(words: ClientWords, socket: OwnedFd) -> Result<PassedClient> {
    let headers = match words.headers {
        HeadersWord::Simple => Headers::Simple,
        HeadersWord::Structured => Headers::Structured,
        HeadersWord::Extended => Headers::Extended,
    };
    if words.received.len() >= RequestHeader::len_of(headers) {
        return Err(Error::invalid("a client was passed on in the midst of a request"));
    }
    let geometry = Geometry { size_bytes: words.size_bytes, read_only: words.read_only };
    let session = Session { geometry, headers, allocation: words.allocation };
    Ok(PassedClient { socket, session, received: words.received })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn clients_arrive_as_they_were_sent() {
        let geometry = Geometry { size_bytes: 1 << 40, read_only: true };
        let session = Session { geometry, headers: Headers::Extended, allocation: true };
        let sent = PassedClient { socket: socket(), session, received: vec![0x21, 0xe4] };
        let (words, sockets) = put(vec![sent]).unwrap();
        let arrived = take(&words, sockets).unwrap();
        assert_eq!(arrived.len(), 1);
        assert_eq!((arrived[0].session, &arrived[0].received[..]), (session, &[0x21, 0xe4][..]));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let client = |received: usize| {
            let received = vec![0; received];
            format!(
                r#"{{"size_bytes":1,"read_only":false,"headers":"simple","allocation":false,"received":{received:?}}}"#
            )
        };
        for (words, sockets) in [
            ("nonsense".to_owned(), 0),
            (format!(r#"{{"clients":[{}]}}"#, client(0)), 0),
            (r#"{"clients":[]}"#.to_owned(), 1),
            (format!(r#"{{"clients":[{}]}}"#, client(28)), 1),
        ] {
            let sockets = (0..sockets).map(|_| socket()).collect();
            assert_eq!(take(&words, sockets).unwrap_err().kind(), ErrorKind::Invalid, "{words}");
        }
    }
}
