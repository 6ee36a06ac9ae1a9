//! The commands that are played, and the store they begin from.

use super::{
    facts::export,
    guest::{Ask, Guest, History, Request, request},
    stage::{scratch, silt_ok},
};
use silt_engine::{Engine, ExportAddress, Limits, Listen, Serving, StopSignal};
use silt_testkit::nbd_client::NbdSession;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::mpsc,
};
use tempfile::TempDir;

/// The smallest disk that holds the trees here.
pub(crate) const DISK_SIZE: &str = "1M";

/// Two source folders and a store with something of everything: image `base`, volumes `idle` (never written), `used`
/// (written), `parent` (written, frozen by a clone, written again) and its clone `child`.
pub(crate) struct Props {
    dir: TempDir,
}

impl Props {
    pub(crate) fn new() -> Props {
        let props = Props { dir: scratch() };
        make_tree(&props.tree("one"), 1);
        make_tree(&props.tree("two"), 2);
        let store = props.store();
        silt_ok(&store, &["build", &props.tree_text("one"), "base", "--size", DISK_SIZE]);
        for name in ["idle", "used", "parent"] {
            silt_ok(&store, &["clone", "base", name]);
        }
        write_all(&store, "used", &ROUND);
        write_all(&store, "parent", &ROUND[..4]);
        silt_ok(&store, &["clone", "parent", "child"]);
        write_all(&store, "parent", &ROUND[4..]);
        props
    }

    /// With more: `kept`, written before and after its snapshot `kept@a`, and `long`, which was grown and written to its
    /// end, behind the end of its file system.
    pub(crate) fn with_history() -> Props {
        let props = Props::new();
        let store = props.store();
        for name in ["kept", "long"] {
            silt_ok(&store, &["clone", "base", name]);
        }
        write_all(&store, "kept", &ROUND[..5]);
        silt_ok(&store, &["snapshot", "kept@a"]);
        write_all(&store, "kept", &ROUND[5..]);
        silt_ok(&store, &["resize", "long", "2M"]);
        write_all(&store, "long", &[ROUND[1], request(Ask::Write, 2040 * KIB, 8 * KIB)]);
        props
    }

    /// The store. Copy it; it is for all scenes of a test.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Where no store is.
    pub(crate) fn nothing(&self) -> PathBuf {
        self.dir.path().join("nothing")
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree_text(&self, name: &str) -> String {
        self.tree(name).to_str().unwrap().to_owned()
    }

    /// The words of a command, `one` and `two` replaced by the folders of these names, `archive` by an archive of the store,
    /// which is made for it, `STORE` by
    /// the store.
    pub(crate) fn words(&self, command: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "one" | "two" => self.tree_text(word),
            "STORE" => self.store().to_str().unwrap().to_owned(),
            "archive" => {
                let archive = self.tree_text("archive");
                if !Path::new(&archive).exists() {
                    silt_ok(&self.store(), &["store", "export", &archive]);
                }
                archive
            }
            other => other.to_owned(),
        };
        command.split(' ').map(word).collect()
    }
}

/// A few files of every kind that matters here: empty, small, larger than a chunk, linked.
fn make_tree(dir: &Path, seed: u64) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    let mut state = seed;
    let mut noise = |len: usize| -> Vec<u8> {
        let step = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        };
        (0..len).map(step).collect()
    };
    fs::write(dir.join("empty"), b"").unwrap();
    fs::write(dir.join("same"), b"equal in both trees").unwrap();
    fs::write(dir.join("sub/large"), noise(150_000)).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.join("sub").join(name), noise(3000)).unwrap();
    }
    symlink("large", dir.join("sub/link")).unwrap();
    fs::hard_link(dir.join("same"), dir.join("again")).unwrap();
}

const KIB: u64 = 1024;

/// What a guest does between two flushes: whole and partial blocks, inside and outside of the base's data, rewritten,
/// trimmed and zeroed ones.
pub(crate) const ROUND: [Request; 10] = [
    request(Ask::Write, 0, 8 * KIB),
    request(Ask::Write, 300 * KIB, 64 * KIB),
    request(Ask::Write, 700 * KIB + 512, 512),
    request(Ask::Write, 8 * KIB - 512, 1024),
    request(Ask::WriteFua, 800 * KIB, 4 * KIB),
    request(Ask::Trim, 304 * KIB, 16 * KIB),
    request(Ask::Zero, 500 * KIB + 1536, 9 * KIB),
    request(Ask::ZeroKeep, 0, 4 * KIB),
    request(Ask::Write, 312 * KIB, 2 * KIB),
    request(Ask::Write, 800 * KIB + 512, 512),
];

/// Gives `f` a connection to a volume that is served inside this process.
pub(crate) fn with_disk<T>(store: &Path, name: &str, f: impl FnOnce(NbdSession) -> T) -> T {
    let (place, stop) = (scratch(), StopSignal::new().unwrap());
    let socket = place.path().join("s");
    let serving = Serving {
        name: name.parse().unwrap(),
        exports: vec![ExportAddress::Nbd(Listen::Unix(socket.clone()))],
        read_only: false,
        limits: Limits::default(),
        bounds: silt_engine::VolumeBounds::default(),
        expect: None,
    };
    let engine = Engine::open(store, 8 << 20).unwrap();
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let serve = || engine.serve(&serving, &stop, move |_| ready.send(()).unwrap());
        let server = scope.spawn(serve);
        if is_ready.recv().is_err() {
            panic!("{name} is not served: {:?}", server.join().unwrap());
        }
        let mut session = NbdSession::connect(&socket).unwrap();
        session.enter(false).unwrap();
        let answer = f(session);
        stop.trigger();
        server.join().unwrap().unwrap();
        answer
    })
}

fn write_all(store: &Path, name: &str, requests: &[Request]) {
    let engine = Engine::open(store, 8 << 20).unwrap();
    let mut history = History::new(export(&engine, &name.parse().unwrap()).unwrap());
    drop(engine);
    with_disk(store, name, |session| {
        Guest { session, history: &mut history, note: &|_| () }.ask_all(requests);
    });
}
