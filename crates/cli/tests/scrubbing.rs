//! `silt scrub`: slow, for ever, beside everything else, and it knows where it was.

use crate::{
    repairing::Furnished,
    silt::{Ran, Silt},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

fn begin(silt: &Silt, args: &[&str]) -> Child {
    let mut command: Command = silt.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Ran {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    Ran { status: output.status, stdout: output.stdout, stderr }
}

#[test]
fn a_scrub_finds_damage_and_says_so_afterwards() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    let sound = silt.json(&["scrub", "--once"]);
    assert_eq!((&sound["passes"], &sound["damages_before"]), (&1.into(), &0.into()), "{sound:#}");
    furnished.hurt_a_chunk();
    let ran = silt.run(&["scrub", "--once", "--json"]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert!(ran.stderr.contains("damaged: chunk "), "{ran:?}");
    let place = ran.document();
    assert_eq!((&place["passes"], &place["damages_before"]), (&2.into(), &1.into()), "{place:#}");
    let warned = |about: &str| {
        let warnings = silt.json(&["info"])["warnings"].clone();
        warnings.as_array().unwrap().iter().any(|warning| warning["about"] == about)
    };
    assert!(warned("scrub") && !warned("quarantine"));
    silt.run(&["verify", "--repair", "--from", "pristine"]);
    silt.json(&["scrub", "--once"]);
    assert!(!warned("scrub") && warned("quarantine"));
    furnished.again();
    // A place that cannot be read is none.
    std::fs::write(silt.store().join("scrub"), b"SILTSCRB").unwrap();
    assert_eq!(silt.json(&["scrub", "--once"])["passes"], 1);
}

#[test]
fn a_scrub_goes_on_where_it_was_and_there_is_one_at_a_time() {
    let furnished = Furnished::new();
    let silt = &furnished.silt;
    // Slow enough to be met in the first pack, which takes some seconds.
    let scrub = begin(silt, &["scrub", "--rate", "150K", "--json"]);
    let began = Instant::now();
    // It has its first pack when a collection has to wait.
    while silt.run(&["gc", "--wait", "0"]).status.code() != Some(5) {
        assert!(began.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(silt.run(&["scrub", "--once"]).status.code(), Some(5));
    // Others go on; who collects waits for one pack, as long as told.
    silt.json(&["clone", "image", "beside"]);
    silt.json(&["gc"]);
    let ran = end(scrub);
    assert!(ran.status.success(), "{ran:?}");
    let place = ran.document();
    assert_eq!(place["passes"], 0, "{place:#}");
    let bytes = place["bytes"].as_u64().unwrap();
    assert!(bytes > 0, "{place:#}");
    // What is behind it is not read again before the next pass.
    furnished.hurt_a_chunk();
    let rest = silt.json(&["scrub", "--once"]);
    assert_eq!((&rest["passes"], &rest["damages_before"]), (&1.into(), &0.into()), "{rest:#}");
    assert_eq!(silt.run(&["scrub", "--once"]).status.code(), Some(7));
}
