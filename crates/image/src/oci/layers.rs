//! The layers of an image, one over the other: those that are known are applied, the others fetched a few at a time, read
//! in order and kept.

use super::{
    apply::{apply, is_there, to_record},
    blobs::Blobs,
    cache::{LayerFile, LayerWriter},
    digest::{Checked, Digest},
    resolve::Layer,
};
use crate::{
    contents::ContentsWriter,
    feed::feed,
    placing::{Placing, Strictness},
    stream::{Packed, peek},
    tar::{MemberKind, TarReader, unreadable},
};
use silt_ext4::Hierarchy;
use silt_store::Ingest;
use silt_types::{Error, ErrorKind, Progress, Result};
use std::{
    collections::HashMap,
    io::{BufReader, Read},
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

/// Layers fetched at the same time: what registries take from one client without slowing it down.
const FETCHES_MAX: usize = 4;
/// Members of a layer, each of which costs a few bytes of memory while it is applied.
const MEMBERS_MAX: u32 = 8 << 20;

/// Where the layers of an image go.
pub(super) struct Reading<'a> {
    pub(super) blobs: &'a dyn Blobs,
    /// Where the caches of layers are.
    pub(super) folder: &'a Path,
    pub(super) ingest: &'a Ingest,
    pub(super) contents: &'a ContentsWriter,
    pub(super) progress: &'a dyn Progress,
    /// The most bytes that may come out of all layers together.
    pub(super) len_bytes_max: u64,
}

/// Layers that are to be fetched.
struct Fetches<'l> {
    wanted: Vec<&'l Layer>,
    next: AtomicUsize,
    stop: AtomicBool,
}

/// What came of a fetch.
type Fetched<'l> = (&'l Digest, Result<()>);

/// What came of fetches, in the order in which they ended.
struct Arrivals<'l> {
    coming: Receiver<Fetched<'l>>,
    arrived: HashMap<&'l Digest, Result<()>>,
}

impl Reading<'_> {
    /// Reads all layers. Answers what they come to, and the bytes read of them.
    pub(super) fn read(mut self, layers: &[Layer]) -> Result<(Hierarchy, u64)> {
        let mut known: HashMap<&Digest, LayerFile> = HashMap::new();
        let mut wanted: HashMap<&Digest, &Layer> = HashMap::new();
        let mut fetches =
            Fetches { wanted: Vec::new(), next: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        for layer in layers {
            if known.contains_key(&layer.diff_id) || wanted.contains_key(&layer.diff_id) {
                continue;
            }
            match LayerFile::find(self.folder, &layer.diff_id, self.ingest) {
                Some(file) => drop(known.insert(&layer.diff_id, file)),
                None => {
                    wanted.insert(&layer.diff_id, layer);
                    if !fetches.wanted.iter().any(|other| other.blob.digest == layer.blob.digest) {
                        fetches.wanted.push(layer);
                    }
                }
            }
        }
        let bytes = wanted.values().map(|layer| layer.blob.size).sum();
        self.progress.begin("reading layers", bytes);
        let mut placing = Placing::new(Strictness::Layer)?;
        thread::scope(|scope| {
            let (blobs, progress) = (self.blobs, self.progress);
            let fetches = &fetches;
            let (done, coming) = mpsc::channel();
            for _ in 0..FETCHES_MAX.min(fetches.wanted.len()) {
                let done = done.clone();
                scope.spawn(move || fetches.work(blobs, &done, progress));
            }
            drop(done);
            let mut arrivals = Arrivals { coming, arrived: HashMap::new() };
            let read = layers.iter().try_for_each(|layer| {
                self.put_over(layer, &mut known, &mut arrivals, &mut placing)
            });
            fetches.stop.store(true, Relaxed);
            read
        })?;
        Ok((placing.finish()?, bytes))
    }

    fn put_over<'l>(
        &mut self,
        layer: &'l Layer,
        known: &mut HashMap<&'l Digest, LayerFile>,
        arrivals: &mut Arrivals<'_>,
        placing: &mut Placing,
    ) -> Result<()> {
        let named = |error: Error| error.context(format!("in the layer {}", layer.blob.digest));
        if let Some(file) = known.get(&layer.diff_id) {
            return apply(file, placing, self.contents, Some(self.ingest)).map_err(named);
        }
        arrivals.wait_for(&layer.blob.digest)?;
        let file = self.read_layer(layer)?;
        apply(&file, placing, self.contents, None).map_err(named)?;
        known.insert(&layer.diff_id, file);
        Ok(())
    }

    /// Reads a layer into chunks and a file. Whatever is wrong with what is in it: if it is not the blob that was named, that
    /// is what is wrong.
    fn read_layer(&mut self, layer: &Layer) -> Result<LayerFile> {
        let reader = self.blobs.layer(&layer.blob, self.progress)?;
        let mut blob = Checked::new(reader, "layer", &layer.blob.digest, Some(layer.blob.size));
        let writer = LayerWriter::create(self.folder, &layer.diff_id)?;
        let unpacked = self.unpack(layer, &mut blob, &writer);
        if layer.is_blob_named {
            blob.finish()?;
        }
        let len = unpacked
            .map_err(|error| error.context(format!("in the layer {}", layer.blob.digest)))?;
        self.len_bytes_max = self.len_bytes_max.saturating_sub(len);
        writer.finish(self.folder)
    }

    /// Answers the length of its content in bytes.
    fn unpack(&self, layer: &Layer, blob: impl Read, writer: &LayerWriter) -> Result<u64> {
        let (head, stream) = peek(BufReader::with_capacity(128 << 10, blob)).map_err(unreadable)?;
        let stream: Box<dyn Read> = match Packed::of(&head) {
            Some(Packed::Xz) => {
                let message = "it is compressed with xz, which layers are not";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            Some(packed) => packed.unpack(stream)?,
            None => Box::new(stream),
        };
        let mut content = Checked::new(stream, "content of a layer", &layer.diff_id, None);
        self.read_members(&mut content, writer)?;
        let len = content.bytes_read();
        content.finish().map(|()| len)
    }

    fn read_members(&self, content: impl Read, writer: &LayerWriter) -> Result<()> {
        let mut reader = TarReader::new(content, self.len_bytes_max);
        let take = |member: u32, steps: &[_]| writer.put_steps(member, steps);
        feed(self.ingest, &take, |feeder| {
            let mut number = 0;
            while let Some(member) = reader.next()? {
                let named = |error: Error| {
                    error.context(format!("{:?}", String::from_utf8_lossy(&member.path)))
                };
                if number >= MEMBERS_MAX
                    || member.size_bytes > silt_ext4::hierarchy::FILE_SIZE_BYTES_MAX
                {
                    let why = "more members, or a longer file, than a disk can hold";
                    return Err(named(Error::invalid(why)));
                }
                writer.put(&to_record(&member))?;
                if member.kind == MemberKind::File && is_there(&member.path)? {
                    feeder.begin(number, member.size_bytes);
                    reader.content(|run, fill| feeder.run(run, fill)).map_err(named)?;
                }
                number += 1;
            }
            Ok(())
        })
    }
}

impl<'l> Fetches<'l> {
    fn work(&self, blobs: &dyn Blobs, done: &Sender<Fetched<'l>>, progress: &dyn Progress) {
        while let Some(layer) = self.wanted.get(self.next.fetch_add(1, Relaxed)).copied()
            && !self.stop.load(Relaxed)
        {
            let fetched = blobs.fetch(&layer.blob, &self.stop, progress);
            // Nobody is left to hear it once another layer failed.
            let _ = done.send((&layer.blob.digest, fetched));
        }
    }
}

impl Arrivals<'_> {
    /// Waits until a layer was fetched, or could not be.
    fn wait_for(&mut self, digest: &Digest) -> Result<()> {
        loop {
            if let Some(fetched) = self.arrived.get_mut(digest) {
                return std::mem::replace(fetched, Ok(()));
            }
            let ended = |_| Error::internal("a thread that fetches layers panicked");
            let (digest, fetched) = self.coming.recv().map_err(ended)?;
            self.arrived.insert(digest, fetched);
        }
    }
}
