//! Stores as they are after years: real packs, maps and rows, with chunks of a few bytes.
//!
//! `large-store make STORE CHUNKS IMAGES VOLUMES` makes one: images of as many chunks each, all distinct, one pack each, and
//! volumes, each cloned from one of them. `large-store look STORE` prints milliseconds to open it, bytes of its database a
//! chunk, and microseconds to look a chunk up, warm: medians.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use silt_engine::{CloneRequest, Engine};
use silt_store::{ChunkKind, ChunkSink as _, Compression, ImageRecord, Store};
use silt_types::ChunkId;
use silt_volume::MapBuilder;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Memory for chunks, of which these measurements read none.
const CACHE_BYTES: u64 = 1 << 20;
/// Opened so often, and looked up so many at a time.
const OPENED: usize = 9;
const LOOKED_UP: u64 = 20_000;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["make", store, chunks, images, volumes] => {
            make(Path::new(store), chunks.parse()?, images.parse()?, volumes.parse()?)
        }
        ["look", store] => look(Path::new(store)),
        _ => Err("usage: large-store make STORE CHUNKS IMAGES VOLUMES | look STORE".into()),
    }
}

/// Content of a chunk, and whose id it is.
fn content(number: u64) -> [u8; 8] {
    (number + 1).to_le_bytes()
}

fn make(path: &Path, chunks: u64, images: u64, volumes: u64) -> Result<()> {
    let store = Store::open_or_create(path, CACHE_BYTES)?;
    let each = chunks.div_ceil(images);
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        loop {
            let image = next.fetch_add(1, Relaxed);
            if image >= images {
                return Ok(());
            }
            make_image(&store, image, each)?;
            if image.is_multiple_of(400) {
                eprintln!("{image} of {images} images");
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked")?)
    })?;
    drop(store);
    let engine = Engine::open(path, CACHE_BYTES)?;
    for volume in 0..volumes {
        let source = format!("image-{}", volume % images).parse()?;
        let request = CloneRequest { source, volumes: vec![format!("volume-{volume}").parse()?] };
        engine.clone_disk(&request)?;
    }
    Ok(())
}

fn make_image(store: &Store, image: u64, chunks: u64) -> Result<()> {
    let ingest = store.ingest(Compression::None)?;
    let disk = {
        let mut map = MapBuilder::new(&ingest, chunks << 12)?;
        for number in 0..chunks {
            let chunk = ingest.put(ChunkKind::FileData, &content(image * chunks + number))?;
            map.map(number, 1, chunk, 0)?;
        }
        map.finish()?
    };
    let record = ImageRecord {
        name: format!("image-{image}").parse()?,
        disk,
        tree: None,
        config: None,
        created_ns: image as i64,
        bytes_nonzero: chunks << 12,
    };
    ingest.publish_image(&record, false)?;
    Ok(())
}

fn look(path: &Path) -> Result<()> {
    let mut opened = Vec::new();
    for _ in 0..OPENED {
        let start = Instant::now();
        drop(Engine::open(path, CACHE_BYTES)?);
        opened.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let store = Store::open(path, CACHE_BYTES)?;
    let chunks = store.totals()?.chunks.chunks;
    let database = std::fs::metadata(path.join("catalog.db"))?.len();
    let context = silt_store::KeyContext::Content;
    // Those of images are numbered from the first to the last; map nodes come in between.
    let ids = |seed: u64| -> Vec<ChunkId> {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % (chunks * 9 / 10)
        };
        (0..LOOKED_UP).map(|_| store.domain().chunk_id(context, &content(random()))).collect()
    };
    for id in ids(1).iter().chain(&ids(2)) {
        store.place_of(id)?.ok_or("a chunk is missing")?;
    }
    let mut looked_up = Vec::new();
    for id in &ids(2) {
        let start = Instant::now();
        store.place_of(id)?.ok_or("a chunk is missing")?;
        looked_up.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let bytes = database as f64 / chunks as f64;
    println!("{:.3} {bytes:.1} {:.2}", median(&mut opened), median(&mut looked_up));
    Ok(())
}

fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}
