//! Which CPU cores the network runs on: the big ones of a big.LITTLE board, so that no step waits for a small core.

use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::base::error::{Error, Kind, Result};

/// A core below this fraction of the largest core's capacity is a small one. With three kinds of cores, the middle ones count as large.
const LARGE_MIN: f64 = 0.7;
/// Maximum number of cores that are considered.
pub const CORES_MAX: usize = 64;

/// A core of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Core {
    /// Its number in the system.
    pub id: usize,
    /// Its capacity, in any unit that is the same for all cores.
    pub capacity: u64,
}

/// The cores that this program may run on; empty where the system does not describe all of them.
pub fn of_system() -> Vec<Core> {
    let mut cores = read(Path::new("/sys/devices/system/cpu"));
    if let Ok(allowed) = sched_getaffinity(None) {
        cores.retain(|core| allowed.is_set(core.id));
    }
    cores
}

/// The kernel's own measure of capacity (ARM), else the highest clock rate, of all cores that are online. None where a core has neither.
fn read(folder: &Path) -> Vec<Core> {
    let number = |path: String| std::fs::read_to_string(folder.join(path)).ok()?.trim().parse::<u64>().ok();
    let is_on =
        |id: &usize| folder.join(format!("cpu{id}")).is_dir() && number(format!("cpu{id}/online")) != Some(0);
    let core = |id: usize| {
        let capacity = number(format!("cpu{id}/cpu_capacity"))
            .or_else(|| number(format!("cpu{id}/cpufreq/cpuinfo_max_freq")))?;
        Some(Core { id, capacity })
    };
    (0..CORES_MAX).filter(is_on).map(core).collect::<Option<_>>().unwrap_or_default()
}

/// The large ones of `cores`, if there are small ones too.
pub fn large(cores: &[Core]) -> Option<Vec<usize>> {
    let most = cores.iter().map(|core| core.capacity).max()?;
    let is_large = |core: &&Core| core.capacity as f64 >= LARGE_MIN * most as f64;
    let large: Vec<usize> = cores.iter().filter(is_large).map(|core| core.id).collect();
    (large.len() < cores.len()).then_some(large)
}

/// The machine as "automatic" settings see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The cores that this program may run on; empty where the system does not describe all of them.
    pub cores: Vec<Core>,
    /// Threads that can run at the same time; 0 (not known) counts as 1.
    pub parallelism: usize,
}

/// Maximum number of threads that "automatic" chooses.
const THREADS_MAX: usize = 4;

impl Machine {
    /// The machine that the program runs on.
    pub fn read() -> Self {
        let parallelism = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Machine { cores: of_system(), parallelism }
    }

    /// The cores that the network runs on: those `asked` for, else the large ones where there are small ones too. Empty: the scheduler
    /// decides.
    pub fn cores_for(&self, asked: Vec<usize>) -> Vec<usize> {
        if asked.is_empty() { large(&self.cores).unwrap_or_default() } else { asked }
    }

    /// Number of the network's threads: as `asked`; for 0, one for each of `cores` if those are not all, else one less than there are cores
    /// (that one is left to the camera), and at most `THREADS_MAX`.
    pub fn threads_for(&self, asked: usize, cores: &[usize]) -> usize {
        let all = self.parallelism.max(1);
        let others = if (1..all).contains(&cores.len()) { cores.len() } else { all - 1 };
        if asked == 0 { others.clamp(1, THREADS_MAX) } else { asked }
    }
}

/// Pins this thread, and all that it starts from now on, to these cores. Empty: the scheduler decides.
///
/// # Errors
/// `Kind::Config`: the machine has none of them, or does not allow it.
pub fn run_on(cores: &[usize]) -> Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CORES_MAX).for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).map_err(|error| {
        let text = format!(
            "model.cores: cannot run on {cores:?}: this machine has no such cores, or does not allow it"
        );
        Error::fatal(Kind::Config, text).caused_by(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_cores_are_distinguished_from_small_ones() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let place = folder.path().join(path);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::write(place, text).unwrap();
        };
        assert_eq!((read(folder.path()), large(&[])), (Vec::new(), None));
        // A Rockchip RK3588: four A55 and four A76; the folder cpuidle is not a core.
        for id in 0..8 {
            put(&format!("cpu{id}/cpu_capacity"), if id < 4 { "530\n" } else { "1024\n" });
        }
        put("cpuidle/current_driver", "psci\n");
        let cores = read(folder.path());
        assert_eq!(cores.len(), 8);
        assert_eq!(large(&cores), Some(vec![4, 5, 6, 7]));
        // A Raspberry Pi: all cores alike. By clock rate where there is no capacity; a core with a slightly higher boost clock is not a
        // kind of its own.
        assert_eq!(large(&cores[..4]), None);
        let rates = [4_700_000, 4_900_000, 5_000_000, 3_200_000].into_iter().enumerate();
        for (id, rate) in rates {
            std::fs::remove_file(folder.path().join(format!("cpu{id}/cpu_capacity"))).unwrap();
            put(&format!("cpu{id}/cpufreq/cpuinfo_max_freq"), &rate.to_string());
        }
        assert_eq!(large(&read(folder.path())[..4]), Some(vec![0, 1, 2]));
        // An offline core is ignored; one core without data makes all of them unknown.
        put("cpu3/online", "0\n");
        assert_eq!(large(&read(folder.path())[..3]), None);
        std::fs::remove_dir_all(folder.path().join("cpu5")).unwrap();
        put("cpu5/online", "1\n");
        assert_eq!(read(folder.path()), []);
    }

    #[test]
    fn automatic_cores_and_threads_follow_the_machine() {
        let machine = |capacities: &[u64], parallelism| Machine {
            cores: capacities.iter().enumerate().map(|(id, &capacity)| Core { id, capacity }).collect(),
            parallelism,
        };
        // (machine, cores and threads asked for, cores and threads given)
        let big_little = machine(&[530, 530, 530, 530, 1024, 1024, 1024, 1024], 8);
        for (machine, (cores, threads), expected) in [
            (&big_little, (vec![], 0), (vec![4, 5, 6, 7], 4)),
            (&big_little, (vec![], 2), (vec![4, 5, 6, 7], 2)),
            (&big_little, (vec![6, 7], 0), (vec![6, 7], 2)),
            (&machine(&[1, 1, 1, 1], 4), (vec![], 0), (vec![], 3)),
            (&machine(&[1, 1, 1, 1], 4), (vec![0, 1, 2, 3], 0), (vec![0, 1, 2, 3], 3)),
            (&machine(&[], 64), (vec![], 0), (vec![], THREADS_MAX)),
            (&machine(&[], 1), (vec![], 0), (vec![], 1)),
            (&Machine::default(), (vec![], 0), (vec![], 1)),
        ] {
            let cores = machine.cores_for(cores);
            let threads = machine.threads_for(threads, &cores);
            assert_eq!((cores, threads), expected, "{machine:?}");
        }
    }

    #[test]
    fn a_pinned_thread_stays_on_its_core() {
        let there = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..CORES_MAX).find(|core| there.is_set(*core)).unwrap();
        let put = std::thread::spawn(move || {
            run_on(&[first]).unwrap();
            let inherited = || {
                let set = rustix::thread::sched_getaffinity(None).unwrap();
                (0..CORES_MAX).filter(|core| set.is_set(*core)).collect::<Vec<_>>()
            };
            (inherited(), std::thread::spawn(inherited).join().unwrap())
        });
        assert_eq!(put.join().unwrap(), (vec![first], vec![first]));
        assert!(run_on(&[]).is_ok());
        let error = std::thread::spawn(|| run_on(&[CORES_MAX - 1]).unwrap_err().to_string()).join().unwrap();
        assert!(error.contains("model.cores") && error.contains("63"), "{error}");
    }
}
