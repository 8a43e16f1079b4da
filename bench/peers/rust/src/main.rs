//! `rust-peers NAME` drives systems written in Rust for bench/run.py. Requests and answers: ../program.py.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::time::Instant;

use cacache::{Algorithm, Integrity, SyncReader, WriteOpts};
use serde_json::{json, Value};

// Blobs are read by this much.
const READ_SIZE: usize = 1 << 20;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// A line of a listing.
struct Blob {
    digest: String,
    size: usize,
    source: String,
}

fn main() -> Outcome<()> {
    if std::env::args().nth(1).as_deref() != Some("cacache") {
        return Err("the only system here is cacache".into());
    }
    let mut answers = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        let answer = perform(&fields).unwrap_or_else(|error| json!({"error": error.to_string()}));
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

fn perform(fields: &[&str]) -> Outcome<Value> {
    match fields {
        ["hello"] => Ok(json!({
            "version": "cacache 13.1.0",
            "operations": ["create", "put", "put-pieces", "get", "copy"],
            "syncs": "nothing",
            "layout": false,
        })),
        ["create", root] => {
            fs::create_dir(root)?;
            Ok(json!({}))
        }
        ["put", root, listing] => put(Path::new(root), &read_listing(listing)?),
        ["put-pieces", root, listing, file] => {
            put_pieces(Path::new(root), &read_listing(listing)?, &fs::read(file)?)
        }
        ["get", root, listing] => get(Path::new(root), &read_listing(listing)?),
        ["copy", root, listing, target] => {
            copy(Path::new(root), &read_listing(listing)?, Path::new(target))
        }
        _ => Err(format!("not understood: {fields:?}").into()),
    }
}

fn read_listing(name: &str) -> Outcome<Vec<Blob>> {
    fs::read_to_string(name)?
        .lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            Ok(Blob {
                digest: fields.next().ok_or("no digest")?,
                size: fields.next().ok_or("no size")?.parse()?,
                source: fields.next().unwrap_or_default(),
            })
        })
        .collect()
}

/// Timed: for each blob the opening of its source, and the put.
fn put(root: &Path, blobs: &[Blob]) -> Outcome<Value> {
    let mut buffer = vec![0; READ_SIZE];
    let mut stored = Vec::new();
    let started = Instant::now();
    for blob in blobs {
        let mut source = File::open(&blob.source)?;
        let mut target = WriteOpts::new().algorithm(Algorithm::Sha256).open_hash_sync(root)?;
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                count => target.write_all(&buffer[..count])?,
            }
        }
        stored.push(target.commit()?);
    }
    let elapsed = started.elapsed();
    Ok(json!({"ns": elapsed.as_nanos() as u64, "digests": names(&stored)}))
}

/// Timed: the puts, from memory.
fn put_pieces(root: &Path, blobs: &[Blob], content: &[u8]) -> Outcome<Value> {
    let mut rest = content;
    let mut stored = Vec::new();
    let started = Instant::now();
    for blob in blobs {
        let (piece, after) = rest.split_at(blob.size);
        stored.push(cacache::write_hash_sync_with_algo(Algorithm::Sha256, root, piece)?);
        rest = after;
    }
    let elapsed = started.elapsed();
    Ok(json!({"ns": elapsed.as_nanos() as u64, "digests": names(&stored)}))
}

/// Timed: for each blob its opening, the reads, the verdict and its closing.
fn get(root: &Path, blobs: &[Blob]) -> Outcome<Value> {
    let wanted = blobs.iter().map(integrity).collect::<Outcome<Vec<Integrity>>>()?;
    let mut buffer = vec![0; READ_SIZE];
    let mut size = 0;
    let started = Instant::now();
    for name in wanted {
        let mut blob = SyncReader::open_hash(root, name)?;
        loop {
            match blob.read(&mut buffer)? {
                0 => break,
                count => size += count,
            }
        }
        blob.check()?;
    }
    let elapsed = started.elapsed();
    Ok(json!({"ns": elapsed.as_nanos() as u64, "size": size, "count": blobs.len()}))
}

/// Timed: the verified copy of one blob.
fn copy(root: &Path, blobs: &[Blob], target: &Path) -> Outcome<Value> {
    let [blob] = blobs else { return Err("not a listing of one blob".into()) };
    let name = integrity(blob)?;
    let started = Instant::now();
    let size = cacache::copy_hash_sync(root, &name, target)?;
    let elapsed = started.elapsed();
    Ok(json!({"ns": elapsed.as_nanos() as u64, "size": size}))
}

fn integrity(blob: &Blob) -> Outcome<Integrity> {
    let encoded = blob.digest.strip_prefix("sha256:").ok_or("not a sha256")?;
    Ok(Integrity::from_hex(encoded, Algorithm::Sha256)?)
}

fn names(stored: &[Integrity]) -> Vec<String> {
    stored.iter().map(|name| format!("sha256:{}", name.to_hex().1)).collect()
}
