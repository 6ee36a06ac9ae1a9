//! A server stopped, refused and starved at each step, from its start to its end: no flushed sector is lost.

use super::{
    facts::{Facts, complaints, look, look_at_sound, reopen},
    guest::{Ask, Guest, History, Moment, request},
    scenes::{Props, ROUND},
    stage::{Answer, Served, Stage},
};
use silt_testkit::fault::{Errno, Later, OpClass, Plan};
use std::{cell::RefCell, path::Path};

/// What a server's disk went through.
struct Session {
    history: History,
    marks: RefCell<Vec<String>>,
    answer: Answer,
    /// A flush failed, and something was written or flushed with success after that.
    forgiven: bool,
}

/// Serves `name`, plays two rounds of a guest against it, and ends the server.
fn session(stage: &Stage, name: &str, before: &[u8]) -> Session {
    let mut history = History::new(before.to_vec());
    let marks = RefCell::new(Vec::<String>::new());
    let mut forgiven = false;
    let answer = match Served::start(&stage.store(), name, &stage.socket()) {
        Err(answer) => answer,
        Ok(served) => {
            let note = |mark| marks.borrow_mut().push(mark);
            if let Ok(session) = served.connect() {
                let mut guest = Guest { session, history: &mut history, note: &note };
                forgiven = play(&mut guest).unwrap_or(false);
            }
            served.terminate()
        }
    };
    if answer.code() == 0 {
        // A clean end makes everything durable that was answered.
        marks.borrow_mut().push(format!("flushed {}", history.requests.len()));
    }
    Session { history, marks, answer, forgiven }
}

/// Two rounds. Whether anything succeeded after a flush had failed; `Err` where the server went away.
fn play(guest: &mut Guest<'_>) -> silt_types::Result<bool> {
    let (mut poisoned, mut forgiven) = (false, false);
    for requests in [&ROUND[..5], &ROUND[5..], &[request(Ask::Write, 310 << 10, 8 << 10)]] {
        for request in requests {
            // A request that has nothing to do writes nothing.
            let error = guest.ask(*request)?;
            forgiven |= poisoned && error == 0 && request.ask == Ask::Write;
        }
        let error = guest.flush()?;
        forgiven |= poisoned && error == 0;
        poisoned |= error != 0;
    }
    Ok(forgiven)
}

/// What is wrong with what a server left.
fn judge(store: &Path, name: &str, session: &Session, others: &Facts) -> Result<(), String> {
    if session.forgiven {
        return Err("something succeeded after a flush had failed".into());
    }
    let moment = Moment::of(session.marks.borrow().iter().map(String::as_str));
    let left = look_at_sound(store)?;
    if left.without(name) != *others {
        return Err("other names have changed".into());
    }
    session.history.allows(&left.disks[name], &moment)?;
    reopen(store, name).map_err(|error| format!("cannot be opened again: {error:?}"))?;
    let again = look(store).map_err(|error| format!("cannot be read again: {error:?}"))?;
    match complaints(store) {
        _ if again.disks[name] != left.disks[name] => Err("opening again changed the disk".into()),
        some if !some.is_empty() => Err(format!("opened again, verification finds {some:?}")),
        _ => Ok(()),
    }
}

/// Plays one session with one thing going wrong.
fn play_with(
    plan: Plan,
    code: Option<i32>,
    props: &Props,
    name: &str,
) -> Option<Result<(), String>> {
    let before = look(&props.store()).unwrap();
    let stage = Stage::over(&props.store())?;
    stage.layer.set_plan(plan);
    let session = session(&stage, name, &before.disks[name]);
    let (store, _dir) = stage.leave();
    let ended = session.answer.code();
    let judged = match code {
        Some(code) if ended != 0 && ended != code => {
            Err("it ended in a way that the error does not have".to_owned())
        }
        _ => judge(&store, name, &session, &before.without(name)),
    };
    Some(judged.map_err(|complaint| {
        let stderr = session.answer.stderr.trim();
        format!("serve {name} with {plan:?} (exit {ended}: {stderr}): {complaint}")
    }))
}

fn every_step(name: &str) {
    let props = Props::new();
    let Some(stage) = Stage::over(&props.store()) else { return };
    stage.layer.set_plan(Plan::NoSpaceAfter { bytes: 1 << 30 });
    let before = look(&props.store()).unwrap();
    let well = session(&stage, name, &before.disks[name]);
    assert_eq!(well.answer.code(), 0, "{}", well.answer.stderr);
    assert!(well.history.failed.is_empty() && !well.forgiven);
    let steps = stage.layer.op_count(OpClass::Any);
    drop(stage);
    let mut complaints = Vec::new();
    let class = OpClass::Any;
    for op in 0..steps {
        let refused = Plan::FailAt { class, op, errno: Errno::IO, later: Later::Work };
        let full = Plan::FailAt { class, op, errno: Errno::NOSPC, later: Later::Fail };
        let stopped = Plan::CrashAt { class, op };
        for (plan, code) in [(refused, Some(10)), (full, Some(8)), (stopped, Some(10))] {
            complaints.extend(play_with(plan, code, &props, name).and_then(Result::err));
        }
    }
    for pages in (0..12).chain([16, 20, 24, 28, 32, 40]) {
        let plan = Plan::NoSpaceAfter { bytes: pages * 4096 };
        complaints.extend(play_with(plan, Some(8), &props, name).and_then(Result::err));
    }
    println!("serve {name}: {steps} steps");
    assert!(complaints.is_empty(), "{}:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn fuse_a_volume_served_for_the_first_time_loses_no_flushed_sector_whatever_step_fails() {
    every_step("idle");
}

#[test]
fn fuse_a_written_volume_served_again_loses_no_flushed_sector_whatever_step_fails() {
    every_step("parent");
}
