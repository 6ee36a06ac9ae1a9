//! A small store hurt in every way: each byte, each bit of a header, a footer and a node, files cut, gone, zeroed, exchanged. An
//! answer is right or an error that names what is damaged, and repair gets back what is there twice.
//!
//! All of it takes long; tests take a part. `SILT_DAMAGE_EVERY=1` takes all, 100 a hundredth.

use super::{
    damage::{ask, judge, kind_of},
    facts::{Look, complaints, look},
    scenes::Props,
    stage::{copy_folder, scratch},
};
use silt_engine::repair_store;
use silt_testkit::fault::{every_file_of, flip_bit};
use silt_types::{ErrorKind, NoProgress};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Of so many ways to hurt a store one is tried, unless told otherwise.
const EVERY: usize = 211;
/// A store is cut at each multiple of so many bytes.
const CUTS: usize = 512;

/// A way to hurt a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Flip { at: u64, bit: u8 },
    CutTo(u64),
    Remove,
    Zero,
    SwapWith(PathBuf),
}

impl Harm {
    fn apply(&self, store: &Path, file: &Path) {
        let path = store.join(file);
        match self {
            Harm::Flip { at, bit } => flip_bit(&path, *at, *bit).unwrap(),
            Harm::CutTo(len) => {
                fs::File::options().write(true).open(&path).unwrap().set_len(*len).unwrap();
            }
            Harm::Remove => fs::remove_file(&path).unwrap(),
            Harm::Zero => {
                let len = fs::metadata(&path).unwrap().len();
                fs::write(&path, vec![0; len as usize]).unwrap();
            }
            Harm::SwapWith(other) => {
                let (other, aside) = (store.join(other), store.join("../aside"));
                fs::rename(&path, &aside).unwrap();
                fs::rename(&other, &path).unwrap();
                fs::rename(&aside, &other).unwrap();
            }
        }
    }
}

/// Bytes of which every bit is flipped: what a file begins and ends with, where headers, rows and trailers are; the first of them
/// are nodes in the first pack.
fn is_looked_at_closely(kind: &str, at: u64, len: u64) -> bool {
    match kind {
        "catalog.db" => at < 100,
        "pack" => at < 64 || at + 64 + 58 >= len,
        "store" | "header" => true,
        "commit" => at % 512 < 16 || at % 512 >= 508,
        "map.log" => at < 64 || (512..580).contains(&at) || at % 512 >= 508,
        _ => false,
    }
}

fn harms_of(store: &Path, files: &[PathBuf]) -> Vec<(PathBuf, Harm)> {
    let mut harms = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let (kind, len) = (kind_of(file), fs::metadata(store.join(file)).unwrap().len());
        let mut harm = |harm: Harm| harms.push((file.clone(), harm));
        // What the data of a delta holds, nothing tells: one byte of each block will do.
        let step = if kind.starts_with("data.") { 4096 } else { 1 };
        for at in (0..len).step_by(step) {
            match is_looked_at_closely(&kind, at, len) {
                true => (0..8).for_each(|bit| harm(Harm::Flip { at, bit })),
                false => {
                    harm(Harm::Flip { at, bit: (at.wrapping_mul(2_654_435_761) >> 7) as u8 % 8 })
                }
            }
        }
        (0..len).step_by(CUTS).for_each(|cut| harm(Harm::CutTo(cut)));
        harm(Harm::Remove);
        harm(Harm::Zero);
        files[number + 1..].iter().for_each(|other| harm(Harm::SwapWith(other.clone())));
    }
    harms
}

/// What must come back whole: everything but content that is in one place alone.
fn is_there_twice(file: &Path, harm: &Harm, len: u64) -> bool {
    let kind = kind_of(file);
    match harm {
        Harm::SwapWith(other) if kind == "pack" && kind_of(other) == "pack" => true,
        Harm::SwapWith(other) => [kind, kind_of(other)]
            .iter()
            .all(|kind| matches!(kind.as_str(), "store" | "header" | "commit")),
        Harm::Flip { at, .. } if kind == "pack" => *at < 64 || *at + 64 + 8 >= len,
        Harm::Flip { .. } => matches!(kind.as_str(), "store" | "commit" | "header" | "catalog.db"),
        _ => matches!(kind.as_str(), "store" | "commit" | "header"),
    }
}

#[derive(Default)]
struct Tried {
    cases: u64,
    found: u64,
    repaired_whole: u64,
}

#[test]
fn a_store_that_is_hurt_anywhere_gives_no_wrong_byte_and_repair_gets_back_what_is_there_twice() {
    let every = std::env::var("SILT_DAMAGE_EVERY").ok().and_then(|every| every.parse().ok());
    let props = Props::new();
    let whole = look(&props.store()).unwrap();
    let files = every_file_of(&props.store()).unwrap();
    let files: Vec<PathBuf> = files
        .iter()
        .map(|file| file.strip_prefix(props.store()).unwrap().to_path_buf())
        // Locks hold nothing, and caches may be damaged or missing at any time.
        .filter(|file| !file.starts_with("caches") && file.file_name().unwrap() != "lock")
        .collect();
    let harms = harms_of(&props.store(), &files);
    let every = every.unwrap_or(EVERY);
    // Those that are rare are all tried.
    let mut taken: Vec<_> = harms.iter().step_by(every).collect();
    taken.extend(harms.iter().filter(|(_, harm)| matches!(harm, Harm::Remove | Harm::Zero)));
    let said_once = pages_said_once(&props.store());
    assert_eq!(said_once.len(), 2);
    let (next, bad) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let tried: Mutex<BTreeMap<String, Tried>> = Mutex::default();
    let worker = || {
        let place = scratch();
        while let Some((file, harm)) = taken.get(next.fetch_add(1, Relaxed)) {
            let case = Case {
                said_once: &said_once,
                props: &props,
                whole: &whole,
                file,
                harm,
                place: place.path(),
            };
            let found = case.play();
            let mut tried = tried.lock().unwrap();
            let tried = tried.entry(kind_of(file)).or_default();
            tried.cases += 1;
            tried.found += u64::from(found.was_found);
            tried.repaired_whole += u64::from(found.is_whole);
            let about = format!("{} {harm:?}", file.display());
            let complaints = found.complaints.into_iter().map(|what| format!("{about}: {what}"));
            bad.lock().unwrap().extend(complaints);
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
    for (kind, tried) in tried.into_inner().unwrap() {
        let Tried { cases, found, repaired_whole } = tried;
        println!("{kind}: {cases} tried, {found} found, {repaired_whole} whole after repair");
    }
    let bad = bad.into_inner().unwrap();
    println!("{} of {} ways", taken.len(), harms.len());
    assert!(bad.is_empty(), "{}:\n{}", bad.len(), bad.join("\n"));
}

/// The pages of tables of which a row stands nowhere else; each of them has one.
fn pages_said_once(store: &Path) -> Vec<u64> {
    let database = rusqlite::Connection::open(store.join("catalog.db")).unwrap();
    let sql =
        "SELECT rootpage FROM sqlite_schema WHERE type = 'table' AND name IN ('volume', 'state')";
    let mut statement = database.prepare(sql).unwrap();
    let pages = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.map(|page| page as u64)).collect::<Result<_, _>>().unwrap()
}

struct Case<'a> {
    said_once: &'a [u64],
    props: &'a Props,
    whole: &'a Look,
    file: &'a Path,
    harm: &'a Harm,
    place: &'a Path,
}

struct Played {
    was_found: bool,
    is_whole: bool,
    complaints: Vec<String>,
}

impl Case<'_> {
    fn play(&self) -> Played {
        let store = self.place.join("store");
        let soft: Vec<String> = match self.is_about_data() {
            true => ["used", "parent", "child"].map(String::from).into(),
            false => Vec::new(),
        };
        let hurt = || {
            let _ = fs::remove_dir_all(&store);
            copy_folder(&self.props.store(), &store);
            self.harm.apply(&store, self.file);
        };
        hurt();
        let is_store = store.join("store").exists();
        let found = complaints(&store);
        let asked = ask(&store, &self.whole.facts, &self.whole.disks, &soft);
        let mut complaints = asked.wrong.clone();
        // Another file gone is another kind of error than a damaged one; one that names it all the same.
        if matches!(self.harm, Harm::Flip { .. }) {
            complaints = judge(&asked, &found);
        } else if !asked.failed.is_empty() && found.is_empty() && is_store {
            complaints.push(format!("{:?}, but verification is content", asked.failed[0]));
        }
        hurt();
        let is_whole = self.repair(&store, &soft, &mut complaints);
        Played { was_found: !found.is_empty(), is_whole, complaints }
    }

    /// Answers whether everything is as it was.
    fn repair(&self, store: &Path, soft: &[String], complaints: &mut Vec<String>) -> bool {
        let len = fs::metadata(self.props.store().join(self.file)).unwrap().len();
        let must = is_there_twice(self.file, self.harm, len) && !self.is_one_record();
        let report = match repair_store(store, &[], false, &NoProgress) {
            Ok(repaired) => repaired.report,
            Err(error) => {
                // Of a newer version, as far as one can tell.
                if error.kind() != ErrorKind::Unsupported {
                    complaints.push(format!("repair: {error:?}"));
                }
                return false;
            }
        };
        let after = ask(store, &self.whole.facts, &self.whole.disks, soft);
        let is_list = |what: &&String| !what.contains("the list is another");
        complaints
            .extend(after.wrong.iter().filter(is_list).map(|what| format!("repaired: {what}")));
        let is_whole =
            report.damages.is_empty() && after.failed.is_empty() && after.wrong.is_empty();
        let left: Vec<_> = report.damages.iter().map(|damage| &damage.what).collect();
        if must && !is_whole {
            complaints.push(format!("not repaired: {left:?} {:?}", after.failed));
        }
        if !is_whole && left.is_empty() {
            complaints.push(format!("not repaired, and it does not say so: {:?}", after.failed));
        }
        is_whole
    }

    /// A volume that was never written is in the catalog alone: if that record is hurt, it is lost, and no more than it. Without the
    /// counts nobody knows whether that is so. Everything else of the database comes back.
    fn is_one_record(&self) -> bool {
        let page = |at: u64| at / 4096 + 1;
        kind_of(self.file) == "catalog.db"
            && matches!(self.harm, Harm::Flip { at, .. } if self.said_once.contains(&page(*at)))
    }

    fn is_about_data(&self) -> bool {
        let is_data = |file: &Path| kind_of(file).starts_with("data.");
        is_data(self.file) || matches!(self.harm, Harm::SwapWith(other) if is_data(other))
    }
}
