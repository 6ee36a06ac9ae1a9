//! `silt serve`: a disk for block clients, in the foreground.

use super::{Context, store::limits::parse_when_full};
use crate::output::{fail, print, warn};
use serde_json::json;
use silt_engine::{
    Access, CACHE_SIZE_BYTES_DEFAULT, Confinement, ExportAddress, FileAddress, Limits, Rate,
    Served, Serving, StopSignal, TakeOver, VolumeBounds, WhenFull, become_user,
};
use silt_types::{Error, ErrorKind, Result, format_size, parse_size};
use std::{path::PathBuf, process::ExitCode};

/// Serve a disk to block clients until SIGTERM or Ctrl-C.
///
/// Runs in the foreground, goes on after the last client leaves, and ends with everything durable. One process may
/// write a volume (exit 5 otherwise); images can be served with --read-only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt serve vm1 --nbd /run/user/1000/vm1.sock
  silt serve vm1 --nbd tcp:127.0.0.1:10809
  silt serve vm1 --vhost-user /run/user/1000/vm1.vhost
  silt serve debian --nbd ./debian.sock --read-only
  silt serve vm1 --take-over                 by a new version of silt, under live clients
  silt serve vm1 --nbd vm1.sock --iops 2000:20000 --bandwidth 100M:1G
  silt serve vm1 --nbd vm1.sock --delta-max 20G --when-full pause
  silt serve vm1 --nbd vm1.sock --expect \"$(cat vm1.state)\"
  silt serve vm1 --fuse ./vm1.img            a raw file: for Firecracker, loop devices, any program

Attach it with QEMU, over NBD:
  -blockdev driver=nbd,server.type=unix,server.path=SOCKET,node-name=d0,discard=unmap
  -device virtio-blk-pci,drive=d0
or over vhost-user, which needs the guest's memory to be shared:
  -object memory-backend-memfd,id=mem,size=512M,share=on -machine q35,memory-backend=mem
  -chardev socket,id=c0,path=SOCKET,reconnect-ms=200 -device vhost-user-blk-pci,chardev=c0")]
pub(crate) struct Args {
    /// Volume; image or snapshot with --read-only.
    volume: String,
    #[command(flatten)]
    exports: Exports,
    /// Let other users use the file of --fuse. Needs root, or user_allow_other in /etc/fuse.conf.
    #[arg(long, requires = "fuse")]
    allow_other: bool,
    /// Refuse writes. Several processes may serve a disk that nobody writes.
    #[arg(long)]
    read_only: bool,
    /// Become this user, whose the store is, before anything is opened.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Say what the server gave up before it hears from a client.
    #[arg(long)]
    print_confinement: bool,
    /// Serve only if the kernel can confine the server in full (exit 9 otherwise).
    #[arg(long)]
    require_confinement: bool,
    /// Operations a second: reads, writes, discards and zeroes together, over all clients. After a rest BURST of them may come
    /// at once (a tenth of a second's worth unless given). Flushes are free.
    #[arg(long, value_name = "N[:BURST]")]
    iops: Option<String>,
    /// Bytes a second: reads and writes together, over all clients. BURST as for --iops, in bytes. Longer requests than that
    /// are possible, and those behind them wait.
    #[arg(long, value_name = "SIZE[:BURST]")]
    bandwidth: Option<String>,
    /// What the volume's deltas may take while this serves it, instead of what 'silt store limits' says.
    #[arg(long, value_name = "SIZE")]
    delta_max: Option<String>,
    /// What a guest meets whose write needs space that there is not: 'error' (ENOSPC), or 'pause' until there is. Instead of
    /// what 'silt store limits' says.
    #[arg(long, value_name = "HOW", value_parser = parse_when_full)]
    when_full: Option<WhenFull>,
    /// Serve only if the disk is in this state, as 'silt state' or 'silt snapshot' has told it; exit 6 otherwise.
    #[arg(long, value_name = "STATE_ID")]
    expect: Option<String>,
    /// Decoded chunks to keep in memory.
    #[arg(long, value_name = "SIZE")]
    cache: Option<String>,
}

/// Where to serve. A disk that may be written has one place, since two clients' caches would know nothing of each other.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Exports {
    /// Serve with NBD, at a Unix socket or tcp:ADDRESS:PORT of the loopback interface.
    #[arg(long, value_name = "SOCKET")]
    nbd: Vec<String>,
    /// Serve with vhost-user-blk, to one virtual machine monitor at a time, at a Unix socket.
    #[arg(long, value_name = "SOCKET")]
    vhost_user: Vec<PathBuf>,
    /// Serve as one raw file, mounted over FILE: an empty one, or made and removed at the end. Needs fusermount3 (package
    /// fuse3), unless run by root.
    #[arg(long, value_name = "FILE")]
    fuse: Vec<PathBuf>,
    /// Take over from the process that serves it now: where it does, as it does, with the clients that it has, who notice
    /// nothing. For a new version of this program, or other limits.
    #[arg(long, conflicts_with_all = ["nbd", "vhost_user", "fuse", "read_only", "expect"])]
    take_over: bool,
}

impl Exports {
    fn addresses(&self, access: Access) -> Result<Vec<ExportAddress>> {
        let nbd = self.nbd.iter().map(|text| text.parse().map(ExportAddress::Nbd));
        let fuse = self.fuse.iter().map(|path| FileAddress { path: path.clone(), access });
        let vhost_user = self.vhost_user.iter().cloned().map(ExportAddress::VhostUser);
        nbd.chain(vhost_user.map(Ok))
            .chain(fuse.map(|file| Ok(ExportAddress::Fuse(file))))
            .collect()
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let access = if args.allow_other { Access::AllowOther } else { Access::Owner };
    let serving = Serving {
        name: args.volume.parse()?,
        exports: args.exports.addresses(access)?,
        read_only: args.read_only,
        limits: Limits {
            iops: parse_rate(args.iops.as_deref(), parse_count)?,
            bandwidth: parse_rate(args.bandwidth.as_deref(), parse_size)?,
        },
        bounds: VolumeBounds {
            delta_bytes_max: args.delta_max.as_deref().map(parse_size).transpose()?,
            when_full: args.when_full,
        },
        expect: args.expect.as_deref().map(str::parse).transpose()?,
    };
    let cache = args.cache.as_deref().map_or(Ok(CACHE_SIZE_BYTES_DEFAULT), parse_size)?;
    if let Some(user) = &args.user {
        become_user(user)?;
    }
    // Before anything else: it shares nothing of what this process opens.
    let broker = context.broker()?;
    // From here on the signals end the server, not the process.
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    let engine = context.engine_with_cache(0)?.reading_through(&broker, cache);
    let (serving, mut prepared) = if args.exports.take_over {
        let Serving { name, limits, bounds, .. } = serving;
        engine.take_over(&TakeOver { name, limits, bounds })?
    } else {
        let prepared = engine.prepare(&serving)?;
        (serving, prepared)
    };
    drop(engine);
    let confinement = prepared.confine(&broker, args.require_confinement)?;
    if confinement.landlock.is_none() {
        warn("warning: this kernel has no Landlock, so the server can reach its user's files");
    }
    let name = serving.name.to_string();
    prepared.tell_when_full(move |what| warn(&format!("silt: {name}: {what}")));
    let mut told = None;
    let served = prepared.run(&stop, |served| {
        let document = || document(&serving, served, &confinement);
        let text = || match args.print_confinement {
            true => format!("{}\n{}", text(&serving, served), confinement_text(&confinement)),
            false => text(&serving, served),
        };
        told = Some(print(context.json, document, text));
    });
    match (served, told) {
        // The one document is out by then.
        (Err(error), Some(_)) => Ok(fail(&error, false)),
        (Err(error), None) => Err(error),
        (Ok(()), told) => told.unwrap_or(Ok(())).map(|()| ExitCode::SUCCESS),
    }
}

fn document(serving: &Serving, served: &Served, held: &Confinement) -> serde_json::Value {
    let export = |address: &ExportAddress| json!({ "protocol": address.protocol(), "address": address.to_string() });
    json!({
        "name": serving.name.to_string(),
        "address": served.exports.first().map(ExportAddress::to_string),
        "exports": served.exports.iter().map(export).collect::<Vec<_>>(),
        "size": served.geometry.size_bytes,
        "read_only": served.geometry.read_only,
        "confinement": {
            "landlock": held.landlock,
            "read": held.read,
            "write": held.write,
            "system_calls": held.system_calls,
            "open_files_max": held.open_files_max,
            "new_privileges": false,
        },
    })
}

/// What is in force, a line each.
fn confinement_text(held: &Confinement) -> String {
    let folders = |folders: &[PathBuf]| match folders {
        [] => "nothing".to_owned(),
        some => some.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let landlock = match held.landlock {
        Some(version) => [
            format!("files (Landlock, version {version}): reads {}", folders(&held.read)),
            format!("  writes {}", folders(&held.write)),
            "  no TCP connection, no abstract socket, no signal to others".to_owned(),
        ]
        .join("\n"),
        None => "files: all of its user's, since this kernel has no Landlock".to_owned(),
    };
    let (calls, files) = (held.system_calls, held.open_files_max);
    format!(
        "{landlock}\nsystem calls (seccomp): {calls}, and no new program or process\n\
         privileges: none new\nlimits: {files} open files, no core dump, no locked memory"
    )
}

fn text(serving: &Serving, served: &Served) -> String {
    let size = format_size(served.geometry.size_bytes);
    let rights = if served.geometry.read_only { ", read-only" } else { "" };
    let places: Vec<_> = served.exports.iter().map(ExportAddress::to_string).collect();
    format!("serving {} ({size}{rights}) at {}", serving.name, places.join(" and "))
}

/// A rate and, behind a colon, its burst.
fn parse_rate(text: Option<&str>, parse: fn(&str) -> Result<u64>) -> Result<Option<Rate>> {
    let Some(text) = text else { return Ok(None) };
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(parse(burst)?)),
        None => (text, None),
    };
    let rate = Rate::new(parse(rate)?, burst);
    rate.map(Some)
        .ok_or_else(|| Error::invalid(format!("bad limit {text:?}: nothing would ever be done")))
}

fn parse_count(text: &str) -> Result<u64> {
    let bad = |error| {
        Error::with_source(ErrorKind::Invalid, format!("bad number of operations {text:?}"), error)
    };
    text.parse().map_err(bad)
}
