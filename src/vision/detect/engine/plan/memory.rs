//! Memory plan: one arena, in which buffers that are not needed at the same time share their memory.

/// Numbers in a cache line, to which every buffer is aligned.
const LINE: usize = 16;

/// A cache line of numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; LINE]);

/// Memory for numbers, aligned to a cache line.
#[derive(Debug)]
pub struct Memory {
    lines: Box<[CacheLine]>,
}

impl Memory {
    /// Room for `len` numbers, all zero.
    pub fn zeroed(len: usize) -> Self {
        Memory { lines: vec![CacheLine([0.0; LINE]); len.div_ceil(LINE)].into_boxed_slice() }
    }

    /// Bytes of [`Self::zeroed`] for `len` numbers.
    pub const fn bytes_of(len: usize) -> usize {
        len.div_ceil(LINE) * size_of::<CacheLine>()
    }

    /// Pointer to the first number.
    pub fn first(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}

/// A buffer, and the steps between which it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Length in numbers.
    pub len: usize,
    /// The first step that uses it.
    pub first: usize,
    /// The last step that uses it.
    pub last: usize,
}

impl Need {
    fn meets(&self, other: &Need) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// An offset for each buffer, and the size of the arena: no two buffers that are needed in the same step overlap. The largest are placed
/// first, each as low as possible, which is reported to be within a few percent of the optimum (Pisarchyk and Lee, "Efficient Memory
/// Management for Deep Neural Net Inference", 2020).
pub fn assign_offsets(needs: &[Need]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(needs[*index].len), *index));
    let (mut offsets, mut size) = (vec![0; needs.len()], 0);
    let mut assigned: Vec<usize> = Vec::new();
    for index in order {
        let need = &needs[index];
        let mut taken: Vec<(usize, usize)> = assigned
            .iter()
            .filter(|other| needs[**other].meets(need))
            .map(|other| (offsets[*other], offsets[*other] + needs[*other].len))
            .collect();
        taken.sort_unstable();
        let mut at = 0;
        for (from, to) in taken {
            if at + need.len <= from {
                break;
            }
            at = at.max(to.next_multiple_of(LINE));
        }
        offsets[index] = at;
        size = size.max(at + need.len);
        assigned.push(index);
    }
    (offsets, size)
}

/// The largest sum of buffers in any one step: no arena can be smaller.
pub fn least(needs: &[Need]) -> usize {
    let end = needs.iter().map(|need| need.last + 1).max().unwrap_or(0);
    let of = |step: usize| needs.iter().filter(move |need| (need.first..=need.last).contains(&step));
    (0..end).map(|step| of(step).map(|need| need.len).sum()).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_in_use_at_once_do_not_overlap(
            needs in proptest::collection::vec((1usize..500, 0usize..30, 0usize..10), 1..60)
        ) {
            let needs: Vec<Need> =
                needs.into_iter().map(|(len, first, more)| Need { len, first, last: first + more }).collect();
            let (offsets, size) = assign_offsets(&needs);
            for (a, one) in needs.iter().enumerate() {
                prop_assert!(offsets[a] % LINE == 0 && offsets[a] + one.len <= size);
                for (b, other) in needs.iter().enumerate().skip(a + 1) {
                    let apart = offsets[a] + one.len <= offsets[b] || offsets[b] + other.len <= offsets[a];
                    prop_assert!(apart || one.last < other.first || other.last < one.first);
                }
            }
            prop_assert!(size >= least(&needs));
        }
    }

    #[test]
    fn memory_of_finished_buffers_is_reused() {
        let need = |len, first, last| Need { len, first, last };
        let needs = [need(160, 0, 1), need(160, 1, 2), need(160, 2, 3), need(160, 3, 4)];
        assert_eq!(assign_offsets(&needs), (vec![0, 160, 0, 160], 320));
        assert_eq!(least(&needs), 320);
        assert!(Memory::zeroed(17).first().addr().is_multiple_of(64));
    }
}
