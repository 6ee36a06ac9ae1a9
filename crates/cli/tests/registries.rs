//! `silt build docker://…` of a real registry, filled by skopeo: pulled, pulled again, cut off, refused, damaged.

use crate::{
    containers::{layers, layout, skopeo},
    silt::{Silt, is_root, wait_for},
};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
};

/// `user:secret`, as the registry wants it in a file (bcrypt, at its least cost).
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// The same, as docker keeps it.
const AUTH: &str = "dXNlcjpzZWNyZXQ=";

/// A registry on the loopback; ends with the test.
struct Registry {
    process: Child,
    port: u16,
    log: PathBuf,
    storage: PathBuf,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// With these further lines of its configuration, under `http` and at the top.
    fn start(silt: &Silt, http: &str, top: &str) -> Registry {
        // Free a moment ago, so very likely still.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (storage, log) = (silt.path("registry"), silt.path("registry.log"));
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{http}{top}",
            storage.display()
        );
        fs::write(silt.path("registry.yml"), config).unwrap();
        let output = File::create(&log).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(silt.path("registry.yml"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        wait_for("the registry", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Registry { process, port, log, storage }
    }

    /// What of it the tests use, as a source.
    fn image(&self) -> String {
        image_at(self.port)
    }

    /// Times that it was asked for any of these layers.
    fn asked_for(&self, layers: &[PathBuf]) -> usize {
        let log = fs::read_to_string(&self.log).unwrap();
        let names = |line: &str| {
            layers.iter().any(|layer| line.contains(layer.file_name().unwrap().to_str().unwrap()))
        };
        log.lines().filter(|line| line.contains("\"GET ") && names(line)).count()
    }
}

fn image_at(port: u16) -> String {
    format!("docker://127.0.0.1:{port}/team/app:1")
}

/// A registry that has the image of a layout.
fn filled(silt: &Silt, http: &str, top: &str, options: &[&str]) -> (Registry, PathBuf) {
    let layout = layout(silt);
    let registry = Registry::start(silt, http, top);
    let from = format!("oci:{}:1", layout.display());
    skopeo(&[&[&from, &registry.image(), "--dest-tls-verify=false"], options].concat());
    (registry, layout)
}

/// The tree of the layout, built in another store.
fn tree_of(layout: &Path) -> serde_json::Value {
    let other = Silt::new();
    other.json(&["build", &format!("oci:{}:1", layout.display()), "x"])["tree_id"].clone()
}

#[test]
fn root_an_image_is_pulled_once() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (registry, layout) = filled(&silt, "", "", &[]);
    let layers = layers(&layout);
    let built = silt.json(&["build", &registry.image(), "app"]);
    assert_eq!(built["tree_id"], tree_of(&layout));
    assert_eq!(silt.json(&["info", "app"])["config"]["config"]["WorkingDir"], "/srv");
    let asked = registry.asked_for(&layers);
    assert!(asked >= layers.len(), "{asked}");
    let again = silt.json(&["build", &registry.image(), "again"]);
    assert_eq!((&again["disk_id"], &again["bytes_read"]), (&built["disk_id"], &0.into()));
    assert_eq!(registry.asked_for(&layers), asked, "layers were fetched again");
    let unknown =
        format!("docker://127.0.0.1:{}/team/app@sha256:{}", registry.port, "0".repeat(64));
    assert!(silt.fails(3, &["build", &unknown, "x"]).contains("000"));
    silt.fails(3, &["build", &registry.image().replace("app:1", "other:1"), "x"]);
    let left = fs::read_dir(silt.store().join("caches/blobs")).unwrap().count();
    assert_eq!(left, 0, "what was fetched is not needed any more");
    silt.assert_verified();
}

#[test]
fn root_a_layer_with_a_flipped_byte_is_refused_by_its_digest() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (registry, layout) = filled(&silt, "", "", &[]);
    let layer = &layers(&layout)[0];
    let hex = layer.file_name().unwrap().to_str().unwrap();
    let blobs = registry.storage.join("docker/registry/v2/blobs/sha256");
    let blob = blobs.join(&hex[..2]).join(hex).join("data");
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    assert!(silt.fails(7, &["build", &registry.image(), "app"]).contains(hex));
    assert_eq!(silt.names(), [""; 0]);
    bytes[1000] ^= 1;
    fs::write(&blob, &bytes).unwrap();
    silt.ok(&["build", &registry.image(), "app"]);
}

#[test]
fn root_credentials_are_wanted_and_found_where_docker_and_podman_keep_them() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let passwords = silt.path("htpasswd");
    fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display());
    let (registry, _) = filled(&silt, "", &auth, &["--dest-creds", "user:secret"]);
    let home = silt.path("home");
    let build = |auth_file: Option<&Path>| {
        let mut command = silt.command(&["build", &registry.image(), "app", "--replace", "--json"]);
        let cleared = ["REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"];
        for name in cleared {
            command.env_remove(name);
        }
        command.env("HOME", &home);
        command.env("PATH", format!("{}:/usr/bin:/bin", home.display()));
        auth_file.map(|file| command.env("REGISTRY_AUTH_FILE", file));
        crate::silt::Ran::of(&mut command)
    };
    let refused = build(None);
    assert_eq!(refused.status.code(), Some(10));
    for said in ["credentials", ".docker/config.json", "containers/auth.json", "team/app"] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let host = format!("127.0.0.1:{}", registry.port);
    let docker = home.join(".docker/config.json");
    let podman = home.join(".config/containers/auth.json");
    let elsewhere = silt.path("auth.json");
    let good = format!(r#"{{"auths": {{"{host}": {{"auth": "{AUTH}"}}}}}}"#);
    for file in [&docker, &podman] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, &good).unwrap();
        assert!(build(None).status.success());
        fs::remove_file(file).unwrap();
    }
    fs::write(&elsewhere, good.replace(&host, &format!("{host}/team/app"))).unwrap();
    assert!(build(Some(&elsewhere)).status.success());
    fs::write(&elsewhere, good.replace(AUTH, "dXNlcjp3cm9uZw==")).unwrap();
    let refused = build(Some(&elsewhere));
    assert_eq!(refused.status.code(), Some(10));
    assert!(refused.stderr.contains("does not give"), "{}", refused.stderr);
    // A helper has them.
    let helper = home.join("docker-credential-test");
    let script = "#!/bin/sh\nread host\necho '{\"ServerURL\": \"'$host'\", \"Username\": \"user\", \"Secret\": \"secret\"}'\n";
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&docker, format!(r#"{{"credHelpers": {{"{host}": "test"}}}}"#)).unwrap();
    assert!(build(None).status.success());
}

/// Passes connections on, and cuts those that bring too much.
struct Proxy {
    port: u16,
    /// What clients said.
    said: Arc<Mutex<Vec<u8>>>,
    /// Whether connections are cut.
    cuts: Arc<AtomicBool>,
}

impl Proxy {
    /// A connection over which more than `bytes_max` come is cut.
    fn start(to: u16, bytes_max: usize) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (said, cuts) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let proxy = Proxy { port, said: Arc::clone(&said), cuts: Arc::clone(&cuts) };
        thread::spawn(move || {
            for client in listener.incoming() {
                let (said, cuts) = (Arc::clone(&said), Arc::clone(&cuts));
                let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", to)));
                let Ok(server) = server else { continue };
                let (from_client, to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    pass(from_client, to_server, |bytes| {
                        said.lock().unwrap().extend_from_slice(bytes);
                        true
                    })
                });
                let mut passed = 0;
                thread::spawn(move || {
                    pass(server, client, move |bytes| {
                        passed += bytes.len();
                        passed <= bytes_max || !cuts.load(SeqCst)
                    })
                });
            }
        });
        proxy
    }

    /// The ranges that were asked for.
    fn ranges(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let text = String::from_utf8_lossy(&said).to_ascii_lowercase();
        let ranges = text.lines().filter_map(|line| line.strip_prefix("range: "));
        ranges.map(|range| range.trim().to_owned()).collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut see: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !see(&buffer[..len]) || to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn root_a_layer_that_is_cut_off_is_gone_on_with() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (registry, layout) = filled(&silt, "", "", &[]);
    // The large layers have three megabytes: each connection brings a part of one.
    let proxy = Proxy::start(registry.port, 1_200_000);
    let built = silt.json(&["build", &image_at(proxy.port), "app"]);
    assert_eq!(built["tree_id"], tree_of(&layout));
    let ranges = proxy.ranges();
    assert!(ranges.len() >= 2, "{ranges:?}");
    let starts: Vec<u64> = ranges
        .iter()
        .map(|range| range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap())
        .collect();
    assert!(starts.iter().all(|start| *start > 500_000), "{ranges:?}");
}

#[test]
fn root_what_an_ended_command_fetched_the_next_one_goes_on_with() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (registry, layout) = filled(&silt, "", "", &[]);
    // So little that attempts run out.
    let proxy = Proxy::start(registry.port, 200_000);
    let message = silt.fails(10, &["build", &image_at(proxy.port), "app"]);
    assert!(message.contains("the connection"), "{message}");
    let blobs = silt.store().join("caches/blobs");
    let part = |path: PathBuf| fs::metadata(path).unwrap().len();
    let parts: Vec<u64> =
        fs::read_dir(&blobs).unwrap().map(|entry| part(entry.unwrap().path())).collect();
    assert!(parts.iter().any(|len| *len > 200_000), "{parts:?}");
    proxy.cuts.store(false, SeqCst);
    let before = proxy.ranges().len();
    let built = silt.json(&["build", &image_at(proxy.port), "app"]);
    assert_eq!(built["tree_id"], tree_of(&layout));
    assert!(proxy.ranges().len() > before, "all over again");
}

#[test]
fn root_a_part_that_is_damaged_is_fetched_again() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (registry, layout) = filled(&silt, "", "", &[]);
    silt.ok(&["build", &format!("oci:{}:1", layout.display()), "first"]);
    fs::remove_dir_all(silt.store().join("caches")).unwrap();
    let blobs = silt.store().join("caches/blobs");
    fs::create_dir_all(&blobs).unwrap();
    for layer in layers(&layout) {
        let name = format!("sha256-{}", layer.file_name().unwrap().to_str().unwrap());
        fs::write(blobs.join(name), b"not what it should be").unwrap();
    }
    let built = silt.json(&["build", &registry.image(), "app"]);
    assert_eq!(built["tree_id"], tree_of(&layout));
}

#[test]
fn root_tls_is_spoken_where_it_is_offered_and_its_certificate_checked() {
    if !is_root() {
        return;
    }
    let silt = Silt::new();
    let (key, certificate) = (silt.path("key.pem"), silt.path("certificate.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let (key, certificate) = (key.display(), certificate.display());
    let http = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
    let (registry, layout) = filled(&silt, &http, "", &[]);
    let build = |trusted: bool| {
        let mut command = silt.command(&["build", &registry.image(), "app", "--json"]);
        if trusted {
            command.env("SSL_CERT_FILE", certificate.to_string()).env_remove("SSL_CERT_DIR");
        }
        crate::silt::Ran::of(&mut command)
    };
    let refused = build(false);
    assert_eq!(refused.status.code(), Some(10), "{refused:?}");
    assert!(refused.stderr.contains("TLS"), "{}", refused.stderr);
    let built = build(true);
    assert!(built.status.success(), "{built:?}");
    assert_eq!(built.document()["tree_id"], tree_of(&layout));
}
