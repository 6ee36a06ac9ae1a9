//! What every command keeps to: exit codes, names, sizes, documents, help, and what becomes of results nobody reads.

use crate::silt::{Ran, Silt, is_root, wait_for_end};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Command, Stdio},
};

const COMMANDS: [&str; 10] =
    ["build", "clone", "ls", "info", "rm", "export", "serve", "verify", "completions", "man"];

/// A store with an image `image` and a volume `volume` on it.
fn furnished() -> Silt {
    let silt = Silt::new();
    silt.small_image("image");
    silt.json(&["clone", "image", "volume"]);
    silt
}

fn keys(document: &Value) -> BTreeSet<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn wrong_command_lines_exit_with_2_and_still_answer_one_document() {
    let silt = furnished();
    let cases: [&[&str]; 10] = [
        &[],
        &["frobnicate"],
        &["build"],
        &["build", "dir"],
        &["build", "dir", "name", "--no-such-option"],
        &["clone", "image"],
        &["rm"],
        &["serve", "volume"],
        &["export", "image", "-"],
        &["ls", "too", "many"],
    ];
    for case in cases {
        silt.fails(2, case);
    }
}

#[test]
fn what_is_not_there_exits_with_3() {
    let silt = furnished();
    let dir = silt.small_tree("tree");
    let cases: [&[&str]; 5] = [
        &["info", "missing"],
        &["clone", "missing", "new"],
        &["rm", "volume", "missing"],
        &["export", "missing", "file"],
        &["serve", "missing", "--nbd", "sock"],
    ];
    for case in cases {
        assert!(silt.fails(3, case).contains("missing"), "{case:?}");
    }
    assert_eq!(silt.names(), ["image", "volume"], "rm removes all or nothing");
    assert!(!silt.path("file").exists() && !silt.path("sock").exists());
    let empty = Silt::new();
    for command in [&["ls"][..], &["info"], &["verify"], &["rm", "x"], &["clone", "a", "b"]] {
        assert!(empty.fails(3, command).contains("no store"), "{command:?}");
    }
    assert!(!empty.store().exists(), "asking makes no store");
    drop(dir);
}

#[test]
fn taken_names_exit_with_4_and_say_by_what() {
    let silt = furnished();
    let dir = silt.small_tree("tree");
    let dir = dir.to_str().unwrap();
    let before = silt.json(&["info", "image"]);
    let cases: [(&[&str], &str); 5] = [
        (&["build", dir, "image"], "image"),
        (&["build", dir, "volume"], "volume"),
        (&["build", dir, "volume", "--replace"], "volume"),
        (&["clone", "image", "volume"], "volume"),
        (&["clone", "image", "image"], "image"),
    ];
    for (case, by) in cases {
        let message = silt.fails(4, case);
        assert!(message.contains("taken by") && message.contains(by), "{message}");
    }
    assert_eq!(silt.json(&["info", "image"]), before);
    assert_eq!(silt.names(), ["image", "volume"]);
}

#[test]
fn bad_names_exit_with_6() {
    let silt = furnished();
    let dir = silt.small_tree("tree");
    let dir = dir.to_str().unwrap();
    let long = "n".repeat(129);
    let names = [
        "", ".", "..", "a/b", "/", "../x", "a\nb", "\x1b[31m", "a b", "a@b@c", "a@", "a:b", "-x",
        "é", &long,
    ];
    for name in names {
        let cases: [&[&str]; 7] = [
            &["build", "--", dir, name],
            &["clone", "--", "image", name],
            &["clone", "--", name, "new"],
            &["info", "--", name],
            &["rm", "--", name],
            &["export", "--", name, "file"],
            &["serve", "--nbd", "sock", "--", name],
        ];
        for case in cases {
            silt.fails(6, case);
        }
    }
    // The name of a snapshot is nobody else's.
    for case in [&["build", dir, "a@b"], &["clone", "image", "a@b"]] {
        silt.fails(6, case);
    }
    assert_eq!(silt.names(), ["image", "volume"]);
    let good = ["n".repeat(128), "debian-12.5_x".into(), "0".into(), "...".into()];
    for name in &good {
        silt.json(&["clone", "image", name]);
    }
    assert_eq!(silt.names().len(), 6);
}

#[test]
fn bad_values_exit_with_6() {
    let silt = furnished();
    let dir = silt.small_tree("tree");
    let dir = dir.to_str().unwrap();
    let file = silt.path("tree/data");
    let build = |options: &[&str]| {
        let args = [&["build", dir, "new"], options].concat();
        silt.fails(6, &args)
    };
    for size in ["0", "17T", "16385G", "1.5G", "-1", "", "G", "12Q", "99999999999999999999"] {
        build(&[&format!("--size={size}")]);
    }
    for owner in ["", "root", "0", "0:", ":0", "1:2:3", "-1:0", "4294967296:0"] {
        build(&[&format!("--owner={owner}")]);
    }
    for codec in ["", "gzip", "zstd:0", "zstd:20", "zstd:", "zstd:x", "lz4:1"] {
        build(&[&format!("--compression={codec}")]);
    }
    for format in ["directory", "tar", "qcow2", "vmdk", ""] {
        silt.fails(6, &["build", file.to_str().unwrap(), "new", &format!("--from={format}")]);
    }
    silt.fails(6, &["serve", "image", "--nbd", "sock"]);
    for address in ["tcp:0.0.0.0:0", "tcp:nowhere", "tcp:127.0.0.1", "", "tcp:[::]:0"] {
        silt.fails(6, &["serve", "volume", &format!("--nbd={address}")]);
    }
    silt.fails(6, &["serve", "volume", &format!("--nbd=/tmp/{}", "s".repeat(120))]);
    silt.fails(10, &["build", "no-such-folder", "new"]);
    silt.fails(10, &["serve", "volume", "--nbd", "no/such/folder/sock"]);
    assert_eq!(silt.names(), ["image", "volume"]);
}

#[test]
fn documents_have_the_promised_keys() {
    let silt = Silt::new();
    let built = silt.small_image("image");
    let promised = "image disk_id tree_id size bytes_read bytes_nonzero bytes_new bytes_deduplicated bytes_stored \
                    chunks chunks_new seconds";
    assert_promised(&built, promised);
    silt.json(&["clone", "image", "volume"]);
    let promised = "name kind disk_id size block_size blocks blocks_modified delta_bytes_allocated map_bytes base \
                    created state_id served_by";
    let (image, volume) = (silt.json(&["info", "image"]), silt.json(&["info", "volume"]));
    assert_promised(&image, promised);
    assert_promised(&volume, promised);
    assert_eq!(keys(&image), keys(&volume));
    let promised = "chunks packs bytes_logical bytes_nonzero bytes_unique bytes_unique_file_data bytes_metadata \
                    bytes_stored images volumes";
    assert_promised(&silt.json(&["info"]), promised);
}

fn assert_promised(document: &Value, promised: &str) {
    let missing: Vec<_> =
        promised.split_whitespace().filter(|key| !keys(document).contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?} missing in {document:#}");
}

#[test]
fn documents_agree_with_each_other_and_with_the_source() {
    let silt = Silt::new();
    let built = silt.small_image("image");
    let number = |document: &Value, key: &str| document[key].as_u64().unwrap();
    assert_eq!(built["image"], "image");
    assert_eq!(number(&built, "bytes_read"), 300_000 + 10);
    assert_eq!(
        number(&built, "bytes_new") + number(&built, "bytes_deduplicated"),
        number(&built, "bytes_nonzero")
    );
    silt.json(&["clone", "image", "volume"]);
    let (image, volume) = (silt.json(&["info", "image"]), silt.json(&["info", "volume"]));
    assert_eq!((&image["name"], &image["kind"]), (&"image".into(), &"image".into()));
    assert_eq!((&volume["name"], &volume["kind"]), (&"volume".into(), &"volume".into()));
    for info in [&image, &volume] {
        assert_eq!(info["disk_id"], built["disk_id"]);
        assert_eq!((number(info, "size"), number(info, "block_size")), (16 << 20, 4096));
        assert_eq!((number(info, "blocks"), number(info, "blocks_modified")), (4096, 0));
        assert_eq!(number(info, "delta_bytes_allocated"), 0);
        assert!(number(info, "map_bytes") > 0);
        assert_eq!(info["served_by"], Value::Null);
        let created = info["created"].as_str().unwrap();
        assert!(created.starts_with("20") && created.ends_with('Z'), "{created}");
    }
    assert_eq!((&image["base"], &volume["base"]), (&Value::Null, &built["disk_id"]));
    let store = silt.json(&["info"]);
    for key in ["bytes_nonzero", "bytes_stored", "chunks"] {
        let of_build = if key == "chunks" { "chunks_new" } else { key };
        assert_eq!(store[key], built[of_build], "{key}");
    }
    assert_eq!(number(&store, "bytes_unique"), number(&built, "bytes_new"));
    assert_eq!(number(&store, "bytes_unique_file_data"), 300_000 + 10);
    assert_eq!(
        number(&store, "bytes_unique_file_data") + number(&store, "bytes_metadata"),
        number(&store, "bytes_unique")
    );
    assert_eq!(number(&store, "bytes_logical"), 2 * (16 << 20));
    assert_eq!((number(&store, "images"), number(&store, "volumes")), (1, 1));
}

#[test]
fn every_command_answers_exactly_one_document() {
    let silt = furnished();
    let cases: [(&[&str], &str); 9] = [
        (&["ls"], ""),
        (&["info"], "chunks"),
        (&["info", "volume"], "name"),
        (&["verify"], "ok"),
        (&["clone", "volume", "another"], "volume"),
        (&["export", "image", "image.img"], "size"),
        (&["rm", "another"], "removed"),
        (&["completions", "bash"], "script"),
        (&["man", "."], "dir"),
    ];
    for (case, key) in cases {
        let document = silt.json(case);
        assert!(key.is_empty() || !document[key].is_null(), "{case:?}: {document}");
        // The option stands behind just as well.
        if case[0] != "clone" && case[0] != "rm" {
            let ran = silt.run(&[case, &["--json"]].concat());
            assert!(ran.status.success(), "{ran:?}");
            ran.document();
        }
    }
}

#[test]
fn without_json_people_get_text() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let built = silt.ok(&["build", dir.to_str().unwrap(), "image"]);
    assert!(built.contains("free"), "the default size and its slack are said: {built}");
    assert!(silt.ok(&["clone", "image", "volume"]).contains("volume"));
    let listed = silt.ok(&["ls"]);
    assert!(listed.lines().count() == 3 && listed.contains("volume"), "{listed}");
    assert!(silt.ok(&["info"]).contains("1 images, 1 volumes"));
    assert!(silt.ok(&["info", "volume"]).contains("nobody"));
    assert!(silt.ok(&["export", "image", "file"]).contains("file"));
    assert!(silt.ok(&["verify"]).contains("verified"));
    let ran = silt.run(&["info", "missing"]);
    assert_eq!((ran.status.code(), &ran.stdout[..]), (Some(3), &b""[..]));
    assert!(ran.stderr.starts_with("silt: "), "{}", ran.stderr);
}

#[test]
fn every_command_has_help_with_examples() {
    let silt = Silt::new();
    let overview = silt.ok(&["--help"]);
    assert!(overview.contains("Examples:") && overview.contains("Exit codes"));
    for command in COMMANDS {
        assert!(overview.contains(&format!("  {command} ")), "{command}");
        let help = silt.ok(&[command, "--help"]);
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.contains(&format!("  silt {command}")), "{help}");
        assert!(help.contains("--store") && help.contains("--json"), "{help}");
    }
    assert!(silt.ok(&["--version"]).starts_with("silt "));
}

#[test]
fn completions_and_manual_know_every_command() {
    let silt = Silt::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = silt.ok(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} {command}");
        }
    }
    let check = Ran::of(Command::new("bash").args(["-nc", &silt.ok(&["completions", "bash"])]));
    assert!(check.status.success(), "{check:?}");
    let man = silt.path("man");
    fs::create_dir(&man).unwrap();
    silt.ok(&["man", man.to_str().unwrap()]);
    for command in COMMANDS {
        let page = fs::read_to_string(man.join(format!("silt-{command}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains("silt"), "{command}");
    }
    assert!(man.join("silt.1").exists());
    silt.fails(10, &["man", "no-such-folder"]);
}

#[test]
fn nobody_reading_the_result_is_no_failure() {
    let silt = furnished();
    let cases: [&[&str]; 6] = [
        &["ls"],
        &["info", "volume"],
        &["verify"],
        &["--help"],
        &["completions", "bash"],
        &["--json", "info", "missing"],
    ];
    for case in cases {
        let mut command = silt.command(case);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        let expected = if case.contains(&"missing") { 3 } else { 0 };
        assert_eq!(wait_for_end(&mut child).code(), Some(expected), "{case:?}");
    }
    // A disk that was cut off is not exported, and says so.
    let mut command = silt.command(&["export", "image", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait_for_end(&mut child).code(), Some(10));
}

#[test]
fn closed_streams_and_full_devices_are_no_reason_to_die() {
    let silt = furnished();
    let silt_path = env!("CARGO_BIN_EXE_silt");
    for (redirections, code) in [("<&- >&- 2>&-", 0), (">&-", 0), ("2>&-", 0), (">/dev/full", 8)] {
        for command in ["ls", "info volume", "verify"] {
            let script = format!("'{silt_path}' {command} {redirections}");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).env("SILT_STORE", silt.store());
            let ran = Ran::of(&mut shell);
            assert_eq!(ran.status.code(), Some(code), "{script}: {ran:?}");
        }
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = silt.command(&["export", "image", "-"]);
    let status = command.stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(8));
}

#[test]
fn the_store_is_found_by_option_then_environment_then_data_folder() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let build = |name: &str| {
        let mut command = silt.command(&["build", dir.to_str().unwrap(), name]);
        command.env_remove("SILT_STORE").env_remove("XDG_DATA_HOME").env("HOME", silt.path("home"));
        command
    };
    let run = |command: &mut Command| assert!(Ran::of(command).status.success());
    run(&mut build("a"));
    assert!(silt.path("home/.local/share/siltstone/store").exists());
    run(build("b").env("XDG_DATA_HOME", silt.path("data")));
    assert!(silt.path("data/siltstone/store").exists());
    run(build("c").env("XDG_DATA_HOME", silt.path("data")).env("SILT_STORE", silt.path("by/env")));
    assert!(silt.path("by/env/store").exists());
    run(build("d").env("SILT_STORE", silt.path("by/env")).args(["--store", "by/option"]));
    assert!(silt.path("by/option/store").exists());
    let lost = Ran::of(build("e").env_remove("HOME"));
    assert_eq!(lost.status.code(), Some(2), "{lost:?}");
}

#[test]
fn the_store_is_private_whatever_the_umask() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let script =
        format!("umask 000; exec '{}' build '{}' image", env!("CARGO_BIN_EXE_silt"), dir.display());
    let mut shell = Command::new("sh");
    assert!(Ran::of(shell.args(["-c", &script]).env("SILT_STORE", silt.store())).status.success());
    silt.json(&["clone", "image", "volume"]);
    silt.serve("volume", &[]).stop();
    let open = Command::new("find").arg(silt.store()).args(["-perm", "/077"]).output().unwrap();
    assert_eq!(String::from_utf8(open.stdout).unwrap(), "");
}

#[test]
fn a_folder_with_other_things_is_not_made_a_store() {
    let silt = Silt::new();
    let dir = silt.small_tree("tree");
    let precious = silt.path("store/precious");
    fs::create_dir(silt.store()).unwrap();
    fs::write(&precious, "data").unwrap();
    assert!(silt.fails(6, &["build", dir.to_str().unwrap(), "image"]).contains("precious"));
    assert_eq!(fs::read_dir(silt.store()).unwrap().count(), 1);
    fs::remove_file(precious).unwrap();
    silt.json(&["build", dir.to_str().unwrap(), "image"]);
}

#[test]
fn root_a_store_of_others_is_refused_and_named() {
    if !is_root() {
        return;
    }
    let silt = furnished();
    let mut command = silt.command(&["--json", "ls"]);
    std::os::unix::process::CommandExt::uid(&mut command, crate::silt::NOBODY);
    let ran = Ran::of(&mut command);
    assert_eq!(ran.status.code(), Some(10), "{ran:?}");
    assert!(ran.stderr.contains("store"), "{ran:?}");
}
