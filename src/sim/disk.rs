//! A simulated disk that loses power: unsynced writes are kept in part, in any order, torn within a sector; names likewise. It can also be
//! full, fail, drop what it could not write (and report success the next time), turn read-only, and flip bits.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::random::Random;
use crate::delivery::spool::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    /// File contents as a program reads them.
    cached: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// Fault modes of the disk. A number means one in this many operations; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultModes {
    /// A write or sync fails.
    pub error: u64,
    /// A file cannot be created.
    pub full: u64,
    /// Name changes are not ordered.
    pub no_journal: bool,
    /// Sync reports success and does nothing: with this mode every durability test must fail.
    pub ignores_syncs: bool,
}

#[derive(Debug, Default)]
struct World {
    inodes: Vec<Inode>,
    durable_names: BTreeMap<String, usize>,
    names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    operations: u64,
    cut_at: Option<u64>,
    is_off: bool,
    /// Nothing can be read or written, but nothing is lost: a card without contact.
    is_away: bool,
    read_only: bool,
    modes: FaultModes,
    random: u64,
    /// Number of injected faults: errors, full disks.
    faults: u64,
}

/// The disk of one computer, across power cuts. A clone is the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultDisk(Arc<Mutex<World>>);

impl FaultDisk {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An empty disk; the seed decides which unsynced writes survive.
    pub fn new(seed: u64) -> Self {
        let disk = FaultDisk::default();
        disk.lock().random = seed;
        disk
    }

    /// Power is cut at the operation with this number, counted from now.
    pub fn cut_after(&self, operations: u64) {
        let mut world = self.lock();
        world.cut_at = Some(world.operations + operations);
    }

    /// Cancels a scheduled cut.
    pub fn spare(&self) {
        self.lock().cut_at = None;
    }

    /// Sets the fault modes from now on.
    pub fn set_fault_modes(&self, modes: FaultModes) {
        self.lock().modes = modes;
    }

    /// Whether the file system has turned read-only.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Whether the card has lost contact.
    pub fn set_away(&self, is_away: bool) {
        self.lock().is_away = is_away;
    }

    /// Whether the power is off.
    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Number of faults injected so far.
    pub fn faults(&self) -> u64 {
        self.lock().faults
    }

    /// Cuts the power (if it is on) and restores it. `gentle`: everything pending is written, as after a clean shutdown.
    pub fn reboot(&self, gentle: bool) {
        let mut world = self.lock();
        let mut random = Random::new(world.random);
        // With a journal, name changes survive in order up to some point; without one any of them may survive.
        let changes = std::mem::take(&mut world.pending_names);
        let journal = random.whole(changes.len() as u64 + 1) as usize;
        for (index, change) in changes.into_iter().enumerate() {
            let kept = if world.modes.no_journal { random.one_in(2) } else { index < journal };
            if gentle || kept {
                world.keep_name(change);
            }
        }
        for inode in &mut world.inodes {
            for change in std::mem::take(&mut inode.pending) {
                inode.keep_part(change, gentle, &mut random);
            }
            inode.cached.clone_from(&inode.durable);
        }
        world.names = world.durable_names.clone();
        world.forget_unreachable();
        world.random = random.bits();
        (world.cut_at, world.is_off, world.is_away, world.read_only) = (None, false, false, false);
    }

    /// Flips a bit in a file that is not a free file. True if there was one.
    pub fn flip_a_bit(&self, random: &mut Random) -> bool {
        let mut world = self.lock();
        let files: Vec<usize> = world
            .names
            .iter()
            .filter(|(name, _)| !name.starts_with("free"))
            .map(|(_, inode)| *inode)
            .collect();
        if files.is_empty() {
            return false;
        }
        let inode = &mut world.inodes[files[random.whole(files.len() as u64) as usize]];
        // Mostly where there is data.
        let end = inode.durable.iter().rposition(|byte| *byte != 0).map_or(1, |at| at + 1);
        let at = random.whole(end as u64) as usize;
        let bit = 1 << random.whole(8);
        if let (Some(durable), Some(cached)) = (inode.durable.get_mut(at), inode.cached.get_mut(at)) {
            *durable ^= bit;
            *cached ^= bit;
        }
        true
    }

    /// Creates a file with these bytes.
    pub fn plant(&self, name: &str, bytes: Vec<u8>) {
        let mut world = self.lock();
        let inode = world.inodes.len();
        world.inodes.push(Inode { durable: bytes.clone(), cached: bytes, pending: Vec::new() });
        world.names.insert(name.to_owned(), inode);
        world.durable_names.insert(name.to_owned(), inode);
    }

    /// The names of its files.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }
}

impl World {
    /// Counts an operation; an error if there is no power or a fault is injected, with a probability of one in `one_in`.
    fn operate(&mut self, one_in: u64, error: io::ErrorKind, writes: bool) -> io::Result<()> {
        if self.is_off || self.cut_at.is_some_and(|at| self.operations >= at) {
            self.is_off = true;
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        if self.is_away {
            self.faults += 1;
            return Err(io::Error::other("no contact"));
        }
        if writes && self.read_only {
            self.faults += 1;
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut random = Random::new(self.random);
        let strikes = one_in > 0 && random.one_in(one_in);
        self.random = random.bits();
        if strikes {
            self.faults += 1;
            return Err(error.into());
        }
        Ok(())
    }

    /// Discards the bytes of files without a name, so that a long simulation stays small.
    fn forget_unreachable(&mut self) {
        for (index, inode) in self.inodes.iter_mut().enumerate() {
            let named = |names: &BTreeMap<String, usize>| names.values().any(|named| *named == index);
            if !inode.cached.is_empty() && !named(&self.names) && !named(&self.durable_names) {
                *inode = Inode::default();
            }
        }
    }

    fn keep_name(&mut self, change: NameChange) {
        match change {
            NameChange::Create(name, inode) => {
                self.durable_names.insert(name, inode);
            }
            NameChange::Rename(from, to) => {
                if let Some(inode) = self.durable_names.remove(&from) {
                    self.durable_names.insert(to, inode);
                }
            }
            NameChange::Remove(name) => {
                self.durable_names.remove(&name);
            }
        }
    }
}

impl Inode {
    /// The part of an unsynced change that reached the disk anyway.
    fn keep_part(&mut self, change: Change, all: bool, random: &mut Random) {
        match change {
            Change::Length(bytes) if all || random.one_in(2) => self.durable.resize(bytes, 0),
            Change::Length(_) => {}
            Change::Write { at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let to = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                    let kept = match random.whole(4) {
                        _ if all => to,
                        0 | 1 => to,
                        2 => from,
                        _ => from + random.whole((to - from) as u64 + 1) as usize, // torn
                    };
                    let end = at + kept;
                    if self.durable.len() < end {
                        self.durable.resize(end, 0);
                    }
                    self.durable[at + from..end].copy_from_slice(&bytes[from..kept]);
                    from = to;
                }
            }
        }
    }
}

impl Disk for FaultDisk {
    fn list(&mut self) -> io::Result<Vec<(String, u64)>> {
        let mut world = self.lock();
        world.operate(0, io::ErrorKind::Other, false)?;
        let world = &*world;
        let size = |inode: &usize| world.inodes[*inode].cached.len() as u64;
        Ok(world.names.iter().map(|(name, inode)| (name.clone(), size(inode))).collect())
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.lock();
        let one_in = world.modes.full;
        world.operate(one_in, io::ErrorKind::StorageFull, true)?;
        if world.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut random = Random::new(world.random);
        // A file system may show one content for a new file; after a cut the disk may hold another.
        let garbage = (0..bytes).map(|_| if random.one_in(2) { 0 } else { random.bits() as u8 }).collect();
        world.random = random.bits();
        let number = world.inodes.len();
        world.inodes.push(Inode { durable: garbage, cached: vec![0; bytes as usize], pending: Vec::new() });
        world.names.insert(name.to_owned(), number);
        world.pending_names.push(NameChange::Create(name.to_owned(), number));
        Ok(Box::new(FaultFile { disk: self.clone(), inode: number }))
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.lock();
        world.operate(0, io::ErrorKind::Other, false)?;
        let inode = *world.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(FaultFile { disk: self.clone(), inode }))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.lock();
        world.operate(0, io::ErrorKind::Other, true)?;
        let inode = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), inode);
        world.pending_names.push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut world = self.lock();
        world.operate(0, io::ErrorKind::Other, true)?;
        world.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        world.pending_names.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut world = self.lock();
        let one_in = world.modes.error;
        world.operate(one_in, io::ErrorKind::Other, true)?;
        for change in std::mem::take(&mut world.pending_names) {
            world.keep_name(change);
        }
        world.forget_unreachable();
        Ok(())
    }

    fn free_bytes(&mut self) -> io::Result<u64> {
        self.lock().operate(0, io::ErrorKind::Other, false)?;
        Ok(1 << 40)
    }
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    inode: usize,
}

impl DiskFile for FaultFile {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.disk.lock();
        world.operate(0, io::ErrorKind::Other, false)?;
        let bytes = &world.inodes[self.inode].cached;
        let bytes = bytes.get(offset as usize..).unwrap_or_default();
        let filled = bytes.len().min(buffer.len());
        buffer[..filled].copy_from_slice(&bytes[..filled]);
        Ok(filled)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.lock();
        let (one_in, was_off) = (world.modes.error, world.is_off);
        let outcome = world.operate(one_in, io::ErrorKind::Other, true);
        if was_off || world.is_away || world.read_only {
            return outcome;
        }
        // A write that fails, or that a power cut interrupts, may have been written to any extent.
        let mut random = Random::new(world.random);
        let part = if outcome.is_ok() { bytes.len() } else { random.whole(bytes.len() as u64 + 1) as usize };
        world.random = random.bits();
        let (inode, at) = (&mut world.inodes[self.inode], offset as usize);
        if inode.cached.len() < at + part {
            inode.cached.resize(at + part, 0);
        }
        inode.cached[at..at + part].copy_from_slice(&bytes[..part]);
        inode.pending.push(Change::Write { at, bytes: bytes[..part].to_vec() });
        outcome
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut world = self.disk.lock();
        let one_in = world.modes.error;
        let outcome = world.operate(one_in, io::ErrorKind::Other, true);
        if world.is_off || world.is_away || world.read_only || (outcome.is_ok() && world.modes.ignores_syncs)
        {
            return outcome;
        }
        let mut random = Random::new(world.random);
        let inode = &mut world.inodes[self.inode];
        // A failing sync writes a part and drops the rest: the next one will not try it again.
        for change in std::mem::take(&mut inode.pending) {
            inode.keep_part(change, outcome.is_ok(), &mut random);
        }
        world.random = random.bits();
        outcome
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        let mut world = self.disk.lock();
        world.operate(0, io::ErrorKind::Other, true)?;
        let inode = &mut world.inodes[self.inode];
        inode.cached.resize(bytes as usize, 0);
        inode.pending.push(Change::Length(bytes as usize));
        Ok(())
    }
}
