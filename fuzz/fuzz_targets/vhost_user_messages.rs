//! Any bytes as messages of a monitor: the server must answer or hang up, never panic, and serve the next monitor.

#![no_main]

use libfuzzer_sys::fuzz_target;
use silt_export::{Export as _, StopSignal, vhost_user::Server};
use silt_testkit::vhost_user_abuse::abuse_messages;
use silt_volume::MemoryDevice;
use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

/// One server for the life of the process, over a small disk.
static SOCKET: LazyLock<PathBuf> = LazyLock::new(|| {
    let path = std::env::temp_dir().join(format!("silt-fuzz-monitor-{}", std::process::id()));
    let server = Server::bind(&path).expect("the temporary folder is writable");
    let stop = StopSignal::new().expect("there are file descriptors");
    let device = Arc::new(MemoryDevice::new(vec![7; 64 << 10], false));
    std::thread::spawn(move || server.run(device, &stop));
    path
});

fuzz_target!(|data: &[u8]| abuse_messages(&SOCKET, data));
