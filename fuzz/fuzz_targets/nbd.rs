//! Any bytes from a client, before or after the handshake: the server must answer or close, never panic, and serve the
//! next client. The first byte says how far the handshake is done for the input.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_export::{
    Export as _, StopSignal,
    nbd::{Listen, Server},
};
use silt_volume::MemoryDevice;
use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

/// One server for the life of the process, over a small disk.
static SOCKET: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("silt-fuzz-nbd-{}", std::process::id()));
    let server =
        Server::bind(&Listen::Unix(path.clone())).expect("the temporary folder is writable");
    let stop = StopSignal::new().expect("there are file descriptors");
    let device = Arc::new(MemoryDevice::new(vec![7; 64 << 10], false));
    std::thread::spawn(move || server.run(device, &stop));
    path
});

const GREETED: &[u8] = b"\0\0\0\x03";
const GO: &[u8] = b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0";
const STRUCTURED: &[u8] = b"IHAVEOPT\0\0\0\x08\0\0\0\0";
const EXTENDED: &[u8] = b"IHAVEOPT\0\0\0\x0b\0\0\0\0";
const CONTEXT: &[u8] = b"IHAVEOPT\0\0\0\x0a\0\0\0\x1b\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";

fuzz_target!(|data: &[u8]| {
    let Some((stage, data)) = data.split_first() else { return };
    let before = match stage % 5 {
        0 => Vec::new(),
        1 => GREETED.to_vec(),
        2 => [GREETED, GO].concat(),
        3 => [GREETED, STRUCTURED, CONTEXT, GO].concat(),
        _ => [GREETED, EXTENDED, CONTEXT, GO].concat(),
    };
    let mut stream = UnixStream::connect(&*SOCKET).expect("the server lives");
    // The server may close at any of these; what it must not do is shown by the process living on.
    let _ = stream.write_all(&before).and_then(|()| stream.write_all(data));
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
});
