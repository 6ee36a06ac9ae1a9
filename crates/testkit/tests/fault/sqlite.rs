//! A database of SQLite, log and shared memory included, under the layer: stopped at every operation, refused
//! every operation, and put together after power cuts. The database is the judge of the layer here: what it
//! promises of itself must hold, or the layer invents states that no disk shows.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

use silt_testkit::fault::{Errno, FaultFs, Later, Limits, Model, OpClass, Plan};

use super::{Mounted, python};

/// Commits one row, then two, then three, with a checkpoint between, and waits for a line after each.
const WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute('pragma journal_mode=wal'); db.execute('pragma synchronous=' + sys.argv[2])
db.execute('create table if not exists t(batch, filler)')
for batch in (1, 2, 3):
    db.execute('begin immediate')
    for row in range(batch): db.execute('insert into t values(?, ?)', (batch, 'x' * 3000))
    db.execute('commit')
    print(batch, flush=True)
    sys.stdin.readline()
    if batch == 2: db.execute('pragma wal_checkpoint(truncate)').fetchall()
db.close()
";

/// Prints for each folder the batches that are there, or what is wrong.
const READER: &str = "
import os, sqlite3, sys
def look(folder):
    path = os.path.join(folder, 'db')
    if not os.path.exists(path): return '0'
    db = sqlite3.connect(path, isolation_level=None)
    try:
        if db.execute('pragma integrity_check').fetchall() != [('ok',)]: return 'damaged'
        if not db.execute('select 1 from sqlite_master').fetchall(): return '0'
        seen = db.execute('select batch, count(*) from t group by batch order by batch').fetchall()
        if seen != [(n, n) for n in range(1, len(seen) + 1)]: return 'torn %r' % seen
        return str(len(seen))
    except sqlite3.Error as error: return 'error %s' % error
    finally: db.close()
for folder in sys.stdin: print(look(folder.rstrip('\\n')))
";

/// Runs the writer; `answered` hears of each commit before the writer goes on. Returns the last one.
fn write(path: &Path, synchronous: &str, answered: impl Fn(u32)) -> u32 {
    let mut child = python()
        .args(["-c", WRITER])
        .arg(path)
        .arg(synchronous)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut go_on = child.stdin.take().unwrap();
    let mut last = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap().parse().unwrap();
        answered(last);
        // A writer that gives up closes its end.
        let _ = go_on.write_all(b"\n");
    }
    child.wait().unwrap();
    last
}

/// What the reader says of each folder, by one process for all.
fn read(folders: &[std::path::PathBuf]) -> Vec<String> {
    let mut child =
        python().args(["-c", READER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let list: String = folders.iter().map(|folder| format!("{}\n", folder.display())).collect();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(list.as_bytes()));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    writer.join().unwrap().unwrap();
    child.wait().unwrap();
    lines
}

/// A fresh folder for each run, its database written under a plan. Returns what was answered.
fn run(m: &Mounted, name: &str, plan: Plan) -> u32 {
    m.fs.set_plan(Plan::None);
    fs::create_dir(m.at(name)).unwrap();
    m.fs.set_plan(plan);
    write(&m.at(name).join("db"), "full", |_| ())
}

fn every_step(m: &Mounted, plan: impl Fn(u64) -> Plan) {
    assert_eq!(run(m, "whole", Plan::None), 3);
    let steps = m.fs.op_count(OpClass::Any);
    println!("{steps} operations");
    assert!(steps > 25);
    let runs: Vec<_> = (0..steps).map(|op| (op, run(m, &op.to_string(), plan(op)))).collect();
    m.fs.set_plan(Plan::None);
    let folders: Vec<_> = runs.iter().map(|(op, _)| m.at(&op.to_string())).collect();
    for ((op, answered), found) in runs.into_iter().zip(read(&folders)) {
        let found: u32 = found.parse().unwrap_or_else(|_| panic!("step {op}: {found}"));
        assert!(found >= answered, "step {op}: {found} of {answered} answered");
    }
}

#[test]
fn fuse_sqlite_stopped_at_each_operation_keeps_what_it_answered() {
    let Some(m) = Mounted::new() else { return };
    every_step(&m, |op| Plan::CrashAt { class: OpClass::Any, op });
}

#[test]
fn fuse_sqlite_refused_each_operation_keeps_what_it_answered() {
    let Some(m) = Mounted::new() else { return };
    every_step(&m, |op| Plan::FailAt {
        class: OpClass::Any,
        op,
        errno: Errno::IO,
        later: Later::Work,
    });
}

/// Records a run and opens what power cuts left of it. Returns the number of states and the first complaint.
fn cut_power(m: &Mounted, synchronous: &str, model: Model) -> (usize, Option<String>) {
    let database = m.at(synchronous);
    fs::create_dir(&database).unwrap();
    m.fs.start_recording().unwrap();
    assert_eq!(write(&database.join("db"), synchronous, |batch| m.fs.mark(&batch.to_string())), 3);
    let recording = m.fs.take_recording().unwrap();
    fs::remove_dir_all(&database).unwrap();
    let (mut folders, mut expected) = (Vec::new(), Vec::new());
    for state in recording.states(model, &Limits { states: 300, seed: 5 }) {
        let folder = m.beside().join(format!("{synchronous}-{model:?}-{}", folders.len()));
        state.materialize(&folder).unwrap();
        folders.push(folder.join(synchronous));
        let answered: u32 = state.marks().last().map_or(0, |mark| mark.parse().unwrap());
        expected.push((state.cut(), answered));
    }
    let complaint =
        expected.into_iter().zip(read(&folders)).find_map(|((cut, answered), found)| {
            let well = found.parse::<u32>().is_ok_and(|found| found >= answered);
            let story = || recording.state(cut).unwrap().story(20);
            (!well).then(|| format!("{cut}: found {found}, answered {answered}\n{}", story()))
        });
    (folders.len(), complaint)
}

#[test]
fn fuse_sqlite_survives_every_power_cut() {
    let Some(m) = Mounted::new() else { return };
    for model in [Model::Posix, Model::Ext4] {
        let (states, complaint) = cut_power(&m, "full", model);
        assert_eq!(complaint, None, "{model:?}");
        assert!(states > 200, "{model:?}: {states} states");
    }
}

#[test]
fn fuse_sqlite_told_not_to_sync_loses_what_it_answered() {
    let Some(m) = Mounted::new() else { return };
    for model in [Model::Posix, Model::Ext4] {
        let (_, complaint) = cut_power(&m, "off", model);
        println!("{}", complaint.expect("a database without fsync is caught"));
    }
}

#[test]
fn fuse_sqlite_processes_share_one_database_through_its_memory_map() {
    let Some(m) = Mounted::new() else { return };
    let script = "import sqlite3, sys\n\
        db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)\n\
        db.execute('pragma journal_mode=wal'); db.execute('create table if not exists t(x)')\n\
        for n in range(100): db.execute('insert into t values(?)', (n,))\n";
    let start = || python().args(["-c", script]).arg(m.at("db")).spawn().unwrap();
    start().wait().unwrap();
    for mut child in [start(), start(), start()] {
        assert!(child.wait().unwrap().success());
    }
    let counted = python()
        .args(["-c", "import sqlite3,sys; print(*sqlite3.connect(sys.argv[1]).execute('select count(*) from t').fetchone())"])
        .arg(m.at("db"))
        .output()
        .unwrap();
    assert_eq!(counted.stdout, b"400\n");
}

/// Kept apart so that a layer that cannot be shared between threads would not compile.
#[test]
fn the_layer_can_be_steered_from_any_thread() {
    fn shared<T: Send + Sync>() {}
    shared::<FaultFs>();
}
