//! Reports that people look at: `silt store stats` and `silt top`.

use crate::silt::{Silt, pseudo_random};
use silt_testkit::nbd_client::NbdClient;
use silt_volume::BlockDevice as _;
use std::process::{Command, Stdio};

/// What `du` says of the store, in bytes.
fn disk_usage(silt: &Silt) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(silt.store()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn stats_say_what_du_says_and_what_is_under_way() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &[]);
    let client = NbdClient::connect(&server.socket).unwrap();
    client.write_at(&pseudo_random(500_000, 1), 1 << 20).unwrap();
    client.flush().unwrap();
    let stats = silt.json(&["store", "stats"]);
    assert_eq!((&stats["images"], &stats["volumes"]), (&1.into(), &1.into()), "{stats:#}");
    assert_eq!(stats["servers"], 1, "{stats:#}");
    let work = stats["work"].as_array().unwrap();
    let serving = work.iter().find(|work| work["pid"] == server.pid()).unwrap();
    assert_eq!(serving["only_reads"], true, "{stats:#}");
    assert!(serving["command"].as_str().unwrap().contains("serve vm"), "{stats:#}");
    assert!(stats["bytes_on_disk"]["volumes"].as_u64().unwrap() >= 500_000, "{stats:#}");
    drop(client);
    server.stop();
    silt.json(&["snapshot", "vm@a"]);
    let stats = silt.json(&["store", "stats"]);
    assert_eq!((&stats["servers"], &stats["frozen_deltas"]), (&0.into(), &1.into()), "{stats:#}");
    // The log of the database comes and goes with who looks.
    let (said, found) = (stats["bytes_on_disk"]["total"].as_u64().unwrap(), disk_usage(&silt));
    assert!(said.abs_diff(found) <= 256 << 10, "{said} {found}");
    let text = silt.ok(&["store", "stats"]);
    assert!(text.contains("1 frozen deltas") && text.contains("scrub        never"), "{text}");
}

#[test]
fn top_tells_once_to_a_pipe_and_goes_on_at_a_terminal() {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "vm"]);
    let server = silt.serve("vm", &[]);
    let told = silt.ok(&["top"]);
    assert!(told.contains("1 disks served") && told.contains(&server.pid().to_string()), "{told}");
    assert!(!told.contains('\x1b'), "{told}");
    assert_eq!(silt.json(&["top"])["servers"][0]["name"], "vm");
    // `script` gives it a terminal.
    let silt_top = format!("timeout -s INT 3 {} top --every 1", env!("CARGO_BIN_EXE_silt"));
    let output = Command::new("script")
        .args(["-qec", &silt_top, "/dev/null"])
        .env("SILT_STORE", silt.store())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.matches("1 disks served").count() >= 2, "{shown}");
    assert!(shown.ends_with("\x1b[?25h\x1b[?1049l"), "the terminal is as it was: {shown:?}");
    server.stop();
    silt.fails(2, &["top", "--every", "0"]);
}
