//! The files of a spool without events to send: free ones for the next segments, damaged ones for inspection, and finished ones that have
//! to be removed. Only files that this program created, or that carry its mark, are overwritten or removed.

use std::collections::VecDeque;
use std::io;

use super::Class;
use super::class_queue::Finished;
use super::disk::{Disk, DiskFile};
use super::segment::{self, Named};

/// Empty files that are kept for the next segments: overwriting a file costs about half of what writing a new one does, because no file
/// system metadata changes. They are removed first when space runs out.
pub(super) const FREE_FILES_MAX: usize = 32;

/// Number of damaged segments kept for inspection, the newest ones.
const DAMAGED_FILES_MAX: usize = 4;

/// A damaged segment kept for inspection.
#[derive(Debug, Clone, Copy)]
pub(super) struct DamagedFile {
    pub(super) class: Class,
    pub(super) id: u64,
    /// Size of the file.
    pub(super) bytes: u64,
}

/// A segment that is no longer needed and whose file still exists.
#[derive(Debug, Clone, Copy)]
struct Unneeded {
    class: Class,
    id: u64,
    bytes: u64,
    damaged: bool,
    torn: bool,
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Files {
    segment_bytes: u64,
    free: Vec<u64>,
    damaged: VecDeque<DamagedFile>,
    /// In the order of removal.
    unneeded: VecDeque<Unneeded>,
    /// A torn segment was removed; the removal must be durable before anything behind it is removed.
    unsynced: bool,
    /// Files set aside so far.
    set_aside: u64,
}

impl Files {
    pub(super) fn new(segment_bytes: u32) -> Self {
        Files {
            segment_bytes: u64::from(segment_bytes),
            free: Vec::new(),
            damaged: VecDeque::new(),
            unneeded: VecDeque::new(),
            unsynced: false,
            set_aside: 0,
        }
    }

    /// Forgets all files: their disk is gone.
    pub(super) fn forget(&mut self) {
        self.free.clear();
        self.damaged.clear();
        self.unneeded.clear();
        self.unsynced = false;
    }

    /// Adopts what was found on a disk.
    pub(super) fn adopt(&mut self, disk: &mut dyn Disk, free: Vec<u64>, damaged: VecDeque<DamagedFile>) {
        (self.free, self.damaged) = (free, damaged);
        while self.free.len() > FREE_FILES_MAX {
            self.remove_free(disk);
        }
    }

    /// Size of all of them, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.free_bytes()
            + self.damaged.iter().map(|file| file.bytes).sum::<u64>()
            + self.unneeded.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Size of the free ones, bytes.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free.len() as u64 * self.segment_bytes
    }

    /// How many free ones there are.
    pub(super) fn free_count(&self) -> u64 {
        self.free.len() as u64
    }

    /// Files set aside so far.
    pub(super) fn set_aside_count(&self) -> u64 {
        self.set_aside
    }

    /// Removes a free file. Returns its size; `None` if there is none.
    pub(super) fn remove_free(&mut self, disk: &mut dyn Disk) -> Option<u64> {
        remove(disk, Named::Free(self.free.pop()?));
        Some(self.segment_bytes)
    }

    /// Removes the oldest file kept for inspection. Returns its size; `None` if there is none.
    pub(super) fn remove_damaged(&mut self, disk: &mut dyn Disk) -> Option<u64> {
        let DamagedFile { class, id, bytes } = self.damaged.pop_front()?;
        remove(disk, Named::Damaged(class, id));
        Some(bytes)
    }

    /// Removes the files of segments that are no longer needed, or keeps them for reuse or inspection. Files that cannot be removed now are
    /// removed with the next ones.
    pub(super) fn dispose(
        &mut self,
        disk: Option<&mut (dyn Disk + 'static)>,
        class: Class,
        segments: impl IntoIterator<Item = Finished>,
    ) {
        let done = segments.into_iter().map(|Finished { id, bytes, damaged, torn, .. }| Unneeded {
            class,
            id,
            bytes,
            damaged,
            torn,
        });
        self.unneeded.extend(done);
        let Some(disk) = disk else { return };
        while let Some(first) = self.unneeded.front().copied() {
            // Only the next segment records where a torn segment ends: it must not be removed while a power cut can bring the torn one
            // back.
            if self.unsynced && disk.sync_names().is_err() {
                return;
            }
            self.unsynced = false;
            if !self.let_go(disk, first) {
                return;
            }
            self.unsynced = first.torn;
            self.unneeded.pop_front();
        }
    }

    /// False if it has to be tried again.
    fn let_go(&mut self, disk: &mut dyn Disk, file: Unneeded) -> bool {
        let Unneeded { class, id, bytes, damaged, .. } = file;
        let named = Named::Segment(class, id);
        if damaged {
            return self.set_aside(disk, DamagedFile { class, id, bytes });
        }
        if bytes == self.segment_bytes && self.free.len() < FREE_FILES_MAX {
            match disk.rename(&named.file(), &Named::Free(id).file()) {
                Ok(()) => {
                    self.free.push(id);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
                Err(_) => {}
            }
        }
        is_gone(disk.remove(&named.file()))
    }

    /// Keeps a damaged segment for inspection; the oldest of these is removed for it. False if it has to be tried again.
    pub(super) fn set_aside(&mut self, disk: &mut dyn Disk, file: DamagedFile) -> bool {
        let DamagedFile { class, id, .. } = file;
        let named = Named::Segment(class, id);
        match disk.rename(&named.file(), &Named::Damaged(class, id).file()) {
            Ok(()) => self.damaged.push_back(file),
            // Another one of this number is kept already.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !is_gone(disk.remove(&named.file())) {
                    return false;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return false,
        }
        self.set_aside += 1;
        while self.damaged.len() > DAMAGED_FILES_MAX {
            self.remove_damaged(disk);
        }
        true
    }

    /// Creates the file of a new segment, with a durable header and name. Returns it and the bytes written.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`]: another program's file has this name, and keeps it. Else the error of the disk.
    pub(super) fn create(
        &mut self,
        disk: &mut dyn Disk,
        named: Named,
        header: &segment::Header,
    ) -> io::Result<(Box<dyn DiskFile>, u64)> {
        let (name, id) = (named.file(), named.id());
        let file = if self.reuse(disk, &name)? {
            disk.open(&name)
        } else {
            Ok(disk.create(&name, self.segment_bytes)?)
        };
        let blocks = segment::header_blocks(id, header);
        let durable = file.and_then(|mut file| {
            // The name is synced first: a reused file must not be overwritten while a power cut can restore its old name.
            disk.sync_names()?;
            file.write_at(&blocks, 0)?;
            file.sync()?;
            Ok((file, blocks.len() as u64))
        });
        durable.inspect_err(|_| remove(disk, named)) // It was created, or renamed to this, just now.
    }

    /// Renames a free file to this name. False if there is none.
    fn reuse(&mut self, disk: &mut dyn Disk, name: &str) -> io::Result<bool> {
        while let Some(old) = self.free.pop() {
            match disk.rename(&Named::Free(old).file(), name) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // It was removed by someone else.
                Err(error) => {
                    self.free.push(old);
                    return Err(error);
                }
            }
        }
        Ok(false)
    }
}

fn is_gone(removed: io::Result<()>) -> bool {
    removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// A file of ours that could not be removed is found, and removed, by the next start.
pub(super) fn remove(disk: &mut dyn Disk, named: Named) {
    let _removed = disk.remove(&named.file());
}
