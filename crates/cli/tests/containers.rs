//! `silt build` of container images as umoci and skopeo make them, judged by what umoci unpacks.

use crate::silt::{Silt, is_root, judge, pseudo_random};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Path, PathBuf},
};

/// A layout of an image `app:1` of three layers, in which everything that layers do is done.
pub(crate) fn layout(silt: &Silt) -> PathBuf {
    let layout = silt.path("layout");
    let image = format!("{}:1", layout.display());
    let bundle = silt.path("bundle");
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &image]);
    umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let root = bundle.join("rootfs");
    first_layer(&root);
    umoci(&["repack", "--refresh-bundle", "--image", &image, bundle.to_str().unwrap()]);
    second_layer(&root);
    umoci(&["repack", "--refresh-bundle", "--image", &image, bundle.to_str().unwrap()]);
    let third = third_layer(silt);
    umoci(&["raw", "add-layer", "--image", &image, third.to_str().unwrap()]);
    umoci(&[
        "config",
        "--image",
        &image,
        "--config.entrypoint=/bin/app",
        "--config.cmd=--serve",
        "--config.env=MODE=test",
        "--config.user=1000:1000",
        "--config.workingdir=/srv",
        "--config.exposedports=80/tcp",
    ]);
    layout
}

/// Runs a program that must be content.
fn run(program: &str, args: &[&str]) {
    judge(program, &args.iter().map(OsStr::new).collect::<Vec<_>>());
}

fn umoci(args: &[&str]) {
    run("umoci", args);
}

pub(crate) fn skopeo(args: &[&str]) {
    let always = ["--insecure-policy", "copy", "--quiet"];
    run("skopeo", &[&always, args].concat());
}

fn first_layer(root: &Path) {
    for dir in ["usr/lib", "etc/conf", "gone", "opaque/deep", "becomes-file", "srv"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    symlink("usr/lib", root.join("lib")).unwrap();
    symlink("../etc", root.join("usr/link-to-etc")).unwrap();
    fs::write(root.join("usr/lib/large"), pseudo_random(3_000_000, 1)).unwrap();
    fs::write(root.join("usr/lib/lower"), "lower").unwrap();
    fs::hard_link(root.join("usr/lib/lower"), root.join("etc/lower-too")).unwrap();
    fs::write(root.join("usr/lib/zeros"), vec![0; 200_000]).unwrap();
    fs::write(root.join("becomes-folder"), "file").unwrap();
    fs::write(root.join("becomes-file/inside"), "inside").unwrap();
    fs::write(root.join("gone/file"), "gone").unwrap();
    fs::write(root.join("etc/removed"), "removed").unwrap();
    fs::write(root.join("opaque/below"), "below").unwrap();
    fs::write(root.join("opaque/deep/below"), "below").unwrap();
    fs::write(root.join("opaque/kept-by-name"), "lower").unwrap();
    fs::write(root.join("srv/run"), "#!/bin/sh\n").unwrap();
    chown(root.join("srv/run"), Some(1000), Some(70_000)).unwrap();
    fs::set_permissions(root.join("srv/run"), Permissions::from_mode(0o4755)).unwrap();
    setxattr(root.join("srv/run"), "user.note", b"value\0", XattrFlags::empty()).unwrap();
    let null = root.join("null");
    mknodat(CWD, null, FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

fn second_layer(root: &Path) {
    fs::remove_file(root.join("etc/removed")).unwrap();
    fs::remove_dir_all(root.join("gone")).unwrap();
    fs::remove_dir_all(root.join("becomes-file")).unwrap();
    fs::write(root.join("becomes-file"), "now a file").unwrap();
    fs::remove_file(root.join("becomes-folder")).unwrap();
    fs::create_dir(root.join("becomes-folder")).unwrap();
    fs::write(root.join("becomes-folder/inside"), "now a folder").unwrap();
    fs::write(root.join("usr/lib/large"), pseudo_random(3_000_000, 2)).unwrap();
    fs::write(root.join("etc/added"), "added").unwrap();
}

/// A tar of what no program of these writes: an opaque folder whose mark comes last, whiteouts of what is in the same layer
/// and of nothing, a path through a link, a hard link to a lower layer.
fn third_layer(silt: &Silt) -> PathBuf {
    let dir = silt.path("third");
    fs::create_dir_all(dir.join("opaque")).unwrap();
    fs::create_dir_all(dir.join("lib")).unwrap();
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::create_dir_all(dir.join("usr/lib")).unwrap();
    fs::write(dir.join("opaque/new"), "new").unwrap();
    fs::write(dir.join("opaque/kept-by-name"), "upper").unwrap();
    fs::write(dir.join("opaque/.wh..wh..opq"), "").unwrap();
    fs::write(dir.join("lib/through-the-link"), "through").unwrap();
    fs::write(dir.join("etc/.wh.added"), "").unwrap();
    fs::write(dir.join("etc/.wh.never-there"), "").unwrap();
    fs::write(dir.join("usr/lib/lower"), "").unwrap();
    fs::hard_link(dir.join("usr/lib/lower"), dir.join("usr/lib/linked-above")).unwrap();
    let tar = silt.path("third.tar");
    let members = [
        "./opaque/new",
        "./opaque/kept-by-name",
        "./opaque/.wh..wh..opq",
        "./lib/through-the-link",
        "./etc/.wh.added",
        "./etc/.wh.never-there",
    ];
    let (dir, file) = (dir.to_str().unwrap(), tar.to_str().unwrap());
    let common = ["--format=pax", "--no-recursion", "--numeric-owner", "-C", dir];
    run("tar", &[&common[..], &["-cf", file], &members].concat());
    // A link whose target is of a lower layer alone: what it leads to was written first and is taken out again.
    let both = ["./usr/lib/lower", "./usr/lib/linked-above"];
    run("tar", &[&common[..], &["-rf", file], &both].concat());
    run("tar", &["--delete", "-f", file, "./usr/lib/lower"]);
    tar
}

/// The tree that umoci makes of the image.
fn tree_by_umoci(silt: &Silt, layout: &Path) -> String {
    let bundle = silt.path("judged");
    let image = format!("{}:1", layout.display());
    umoci(&["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let root = bundle.join("rootfs");
    let built = silt.json(&["build", root.to_str().unwrap(), "by-umoci"]);
    built["tree_id"].as_str().unwrap().to_owned()
}

/// The blobs of an image that are layers, lowest first.
pub(crate) fn layers(layout: &Path) -> Vec<PathBuf> {
    let blob =
        |digest: &Value| layout.join("blobs").join(digest.as_str().unwrap().replace(':', "/"));
    let json = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&index["manifests"][0]["digest"]));
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| blob(&layer["digest"])).collect()
}

#[test]
fn root_layers_come_to_what_umoci_unpacks_wherever_they_come_from() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let expected = tree_by_umoci(&silt, &layout);
    let from = format!("oci:{}:1", layout.display());
    let built = silt.json(&["build", &from, "app"]);
    assert_eq!(
        built["tree_id"],
        expected.as_str(),
        "{}",
        silt.ok(&["diff", "--files", "by-umoci", "app"])
    );
    for (name, to) in [
        ("by-layout", "oci:copied:2"),
        ("by-archive", "oci-archive:app.tar:3"),
        ("by-docker", "docker-archive:docker.tar:example.org/app:4"),
    ] {
        let (kind, rest) = to.split_once(':').unwrap();
        let to = format!("{kind}:{}", silt.path(rest).display());
        skopeo(&[&from, &to]);
        // Everything is known by now: nothing is read but what says so.
        let built = silt.json(&["build", &to, name]);
        assert_eq!(
            (&built["tree_id"], &built["bytes_new"]),
            (&Value::from(expected.as_str()), &Value::from(0))
        );
        assert_eq!(built["bytes_read"], 0, "{name}");
        // And without what is known.
        fs::remove_dir_all(silt.store().join("caches")).unwrap();
        let built = silt.json(&["build", &to, name, "--replace"]);
        assert_eq!(built["tree_id"], expected.as_str(), "{name}");
        assert!(built["bytes_read"].as_u64().unwrap() > 0, "{name}");
        assert_eq!(silt.json(&["build", &to, name, "--replace"])["bytes_read"], 0, "{name}");
    }
    silt.assert_verified();
}

#[test]
fn root_the_configuration_is_kept_and_shown() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    silt.ok(&["build", &format!("oci:{}", layout.display()), "app"]);
    let config = &silt.json(&["info", "app"])["config"];
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/bin/app"]));
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    silt.ok(&["rename", "app", "renamed"]);
    let text = silt.ok(&["info", "renamed"]);
    let shown = [r#"["/bin/app"]"#, r#"["--serve"]"#, "MODE=test", "1000:1000", "/srv", "80/tcp"];
    assert!(shown.iter().all(|shown| text.contains(shown)), "{text}");
    silt.ok(&["build", "bundle/rootfs", "plain"]);
    assert_eq!(silt.json(&["info", "plain"])["config"], Value::Null);
    silt.assert_verified();
}

#[test]
fn root_edits_are_made_over_all_layers() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let from = format!("oci:{}:1", layout.display());
    silt.ok(&["build", &from, "app", "--rm", "/usr/lib/large", "--owner", "0:0"]);
    silt.ok(&["build", &from, "plain"]);
    let files = silt.ok(&["diff", "--files", "plain", "app"]);
    assert!(files.contains("usr/lib/large") && files.contains("srv/run"), "{files}");
}

#[test]
fn root_a_flipped_byte_in_a_layer_is_named_by_its_digest() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let from = format!("oci:{}:1", layout.display());
    for layer in layers(&layout) {
        let bytes = fs::read(&layer).unwrap();
        let hex = layer.file_name().unwrap().to_str().unwrap();
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(&layer, flipped).unwrap();
            assert!(silt.fails(7, &["build", &from, "app"]).contains(hex), "{at}");
        }
        fs::write(&layer, &bytes[..bytes.len() - 1]).unwrap();
        assert!(silt.fails(7, &["build", &from, "app"]).contains(hex));
        fs::write(&layer, [&bytes[..], b"x"].concat()).unwrap();
        assert!(silt.fails(7, &["build", &from, "app"]).contains(hex));
        fs::write(&layer, bytes).unwrap();
    }
    assert_eq!(silt.names(), [""; 0]);
    fs::remove_file(&layers(&layout)[0]).unwrap();
    silt.fails(3, &["build", &from, "app"]);
}

#[test]
fn root_a_damaged_cache_is_as_good_as_none() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let from = format!("oci:{}:1", layout.display());
    let built = silt.json(&["build", &from, "app"]);
    let caches = silt.store().join("caches/layers");
    for cached in fs::read_dir(&caches).unwrap() {
        let path = cached.unwrap().path();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let again = silt.json(&["build", &from, "app", "--replace"]);
    assert_eq!(again["tree_id"], built["tree_id"]);
    assert!(again["bytes_read"].as_u64().unwrap() > 0);
    assert_eq!(silt.json(&["build", &from, "app", "--replace"])["bytes_read"], 0);
    silt.assert_verified();
}

#[test]
fn root_tags_and_platforms_that_are_not_there_are_answered_with_those_that_are() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let (one, two) = (format!("{}:1", layout.display()), format!("{}:2", layout.display()));
    umoci(&["tag", "--image", &one, "2"]);
    let message = silt.fails(6, &["build", &format!("oci:{}", layout.display()), "app"]);
    assert!(message.contains("1, 2"), "{message}");
    let message = silt.fails(3, &["build", &format!("oci:{}:3", layout.display()), "app"]);
    assert!(message.contains("1, 2"), "{message}");
    umoci(&["config", "--image", &two, "--architecture=arm64"]);
    // What it is for, only the configuration says; that is taken, unless something else is asked for.
    silt.ok(&["build", &format!("oci:{two}"), "arm"]);
    silt.ok(&["build", &format!("oci:{two}"), "asked", "--platform", "linux/arm64"]);
    let message =
        silt.fails(3, &["build", &format!("oci:{two}"), "x", "--platform", "linux/s390x"]);
    assert!(message.contains("linux/arm64"), "{message}");
    silt.fails(6, &["build", &format!("oci:{two}"), "x", "--platform", "linux"]);
}

#[test]
fn root_old_and_new_archives_of_docker_are_read() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let layout = layout(&silt);
    let from = format!("oci:{}:1", layout.display());
    let built = silt.json(&["build", &from, "app"]);
    let archive = format!("docker-archive:{}:app:1", silt.path("plain.tar").display());
    skopeo(&[&from, &archive]);
    // Before docker 1.10 layers were called `ID/layer.tar`; there they are links.
    let dir = silt.path("old");
    fs::create_dir(&dir).unwrap();
    let dir_name = dir.to_str().unwrap();
    run("tar", &["-xf", silt.path("plain.tar").to_str().unwrap(), "-C", dir_name]);
    let mut manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let links: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("layer.tar"))
        .filter(|path| path.symlink_metadata().is_ok())
        .collect();
    for name in manifest[0]["Layers"].as_array_mut().unwrap() {
        let is_same =
            |link: &&PathBuf| fs::read_link(link).unwrap().ends_with(name.as_str().unwrap());
        let link = links.iter().find(is_same).unwrap();
        *name = link.strip_prefix(&dir).unwrap().to_str().unwrap().into();
    }
    fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    run("tar", &["-cf", silt.path("old.tar").to_str().unwrap(), "-C", dir_name, "."]);
    // Since docker 25 it is an image layout with a manifest.json beside.
    let config = &manifest[0]["Config"];
    let names: Vec<String> = layers(&layout)
        .iter()
        .map(|layer| layer.strip_prefix(&layout).unwrap().to_str().unwrap().to_owned())
        .collect();
    let hex = config.as_str().unwrap().trim_end_matches(".json").to_owned();
    let json = serde_json::json!([{ "Config": format!("blobs/sha256/{hex}"), "Layers": names }]);
    fs::write(layout.join("manifest.json"), json.to_string()).unwrap();
    let layout_name = layout.to_str().unwrap();
    run("tar", &["-cf", silt.path("new.tar").to_str().unwrap(), "-C", layout_name, "."]);
    fs::remove_dir_all(silt.store().join("caches")).unwrap();
    for name in ["old", "new"] {
        let from = format!("docker-archive:{}", silt.path(format!("{name}.tar")).display());
        assert_eq!(silt.json(&["build", &from, name])["tree_id"], built["tree_id"], "{name}");
        fs::remove_dir_all(silt.store().join("caches")).unwrap();
    }
    let message = silt.fails(3, &["build", &archive.replace(":app:1", ":other"), "x"]);
    assert!(message.contains("app:1"), "{message}");
}
