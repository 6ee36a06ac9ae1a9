//! `silt serve`: a disk for block clients, in the foreground.

use super::Context;
use crate::output::{fail, print};
use serde_json::json;
use silt_engine::{CACHE_SIZE_BYTES_DEFAULT, Listen, Serving, StopSignal};
use silt_types::{Error, ErrorKind, Result, format_size, parse_size};
use std::process::ExitCode;

/// Serve a disk to block clients until SIGTERM or Ctrl-C.
///
/// Runs in the foreground, goes on after the last client leaves, and ends with everything durable. One process may
/// write a volume (exit 5 otherwise); images can be served with --read-only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  silt serve vm1 --nbd /run/user/1000/vm1.sock
  silt serve vm1 --nbd tcp:127.0.0.1:10809
  silt serve debian --nbd ./debian.sock --read-only

Attach it with QEMU:
  -blockdev driver=nbd,server.type=unix,server.path=SOCKET,node-name=d0,discard=unmap
  -device virtio-blk-device,drive=d0")]
pub(crate) struct Args {
    /// Volume; image or snapshot with --read-only.
    volume: String,
    /// Serve with NBD, at a Unix socket or tcp:ADDRESS:PORT of the loopback interface.
    #[arg(long, value_name = "SOCKET", required = true)]
    nbd: String,
    /// Refuse writes. Several processes may serve a disk that nobody writes.
    #[arg(long)]
    read_only: bool,
    /// Decoded chunks to keep in memory.
    #[arg(long, value_name = "SIZE")]
    cache: Option<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    let serving = Serving {
        name: args.volume.parse()?,
        listen: parse_listen(&args.nbd)?,
        read_only: args.read_only,
    };
    let cache = args.cache.as_deref().map_or(Ok(CACHE_SIZE_BYTES_DEFAULT), parse_size)?;
    // From here on the signals end the server, not the process.
    let stop = StopSignal::new()?;
    stop.trigger_on_termination()?;
    let engine = context.engine_with_cache(cache)?;
    let mut told = None;
    let served = engine.serve(&serving, &stop, |served| {
        let document = || {
            json!({
                "name": serving.name.to_string(),
                "address": served.address.to_string(),
                "size": served.geometry.size_bytes,
                "read_only": served.geometry.read_only,
            })
        };
        let text = || {
            let size = format_size(served.geometry.size_bytes);
            let rights = if served.geometry.read_only { ", read-only" } else { "" };
            format!("serving {} ({size}{rights}) at {}", serving.name, served.address)
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

fn parse_listen(text: &str) -> Result<Listen> {
    match text.strip_prefix("tcp:") {
        Some(address) => address.parse().map(Listen::Tcp).map_err(|error| {
            Error::with_source(
                ErrorKind::Invalid,
                format!("bad address {text:?}: give tcp:127.0.0.1:PORT"),
                error,
            )
        }),
        None if text.is_empty() => Err(Error::invalid("the socket needs a name")),
        None => Ok(Listen::Unix(text.strip_prefix("unix:").unwrap_or(text).into())),
    }
}
