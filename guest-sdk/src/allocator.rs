//! The allocator of handlers: keeps freed small blocks at hand, in front of the system's allocator.
//!
//! A call of a handler is some dozens of small allocations, most of which live as long as the call.
//! The C library's allocator takes about 220 instructions for each pair of allocation and release;
//! this one takes about 30, which makes `echo` half as expensive. What is freed serves later blocks
//! of its size and is never given back; the host drops an instance that has grown.
#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// Blocks come in multiples of this many bytes, and are aligned to it.
const STEP: usize = 16;

/// Larger blocks are the system's.
const BLOCK_BYTES_MAX: usize = 512;

/// What new blocks are cut from.
const CHUNK_BYTES: usize = 4096;

const SIZES: usize = BLOCK_BYTES_MAX / STEP;

/// The first field of a block that is free.
struct Free {
    next: *mut Free,
}

struct Blocks {
    /// Free blocks of each size.
    free: [Cell<*mut Free>; SIZES],
    /// What is left of the chunk that is being cut up.
    chunk: Cell<*mut u8>,
    chunk_bytes: Cell<usize>,
}

// SAFETY: a component of WASI 0.2 has one thread; with threads this would not be compiled.
#[cfg(not(target_feature = "atomics"))]
unsafe impl Sync for Blocks {}

#[global_allocator]
static BLOCKS: Blocks = Blocks {
    free: [const { Cell::new(null_mut()) }; SIZES],
    chunk: Cell::new(null_mut()),
    chunk_bytes: Cell::new(0),
};

impl Blocks {
    /// Which size of block a layout takes; `None` if it is the system's.
    fn size(layout: Layout) -> Option<usize> {
        let is_small = layout.size() <= BLOCK_BYTES_MAX && layout.align() <= STEP;
        // No layout that is asked for is empty.
        is_small.then(|| layout.size().saturating_sub(1) / STEP)
    }

    #[cold]
    fn cut(&self, bytes: usize) -> *mut u8 {
        if self.chunk_bytes.get() < bytes {
            // SAFETY: the layout is not empty, and its alignment is a power of two.
            let chunk =
                unsafe { System.alloc(Layout::from_size_align_unchecked(CHUNK_BYTES, STEP)) };
            if chunk.is_null() {
                return chunk;
            }
            self.chunk.set(chunk);
            self.chunk_bytes.set(CHUNK_BYTES);
        }
        let block = self.chunk.get();
        // SAFETY: so many bytes are left.
        self.chunk.set(unsafe { block.add(bytes) });
        self.chunk_bytes.set(self.chunk_bytes.get() - bytes);
        block
    }
}

// SAFETY: a block is in no more than one place: in a list, or with the one who asked for it. Blocks
// of a size are at least as large as what is asked for of that size, and aligned to `STEP`.
unsafe impl GlobalAlloc for Blocks {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(size) = Self::size(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        let first = self.free[size].get();
        if first.is_null() {
            return self.cut((size + 1) * STEP);
        }
        // SAFETY: what is in the list was put there by `dealloc`.
        self.free[size].set(unsafe { (*first).next });
        first.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(size) = Self::size(layout) else {
            // SAFETY: the caller's promise, and what is not small came from the system.
            return unsafe { System.dealloc(block, layout) };
        };
        let block: *mut Free = block.cast();
        // SAFETY: nobody uses the block any more, and it has room for a pointer.
        unsafe {
            block.write(Free {
                next: self.free[size].get(),
            })
        };
        self.free[size].set(block);
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size is right for the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        match (Self::size(layout), Self::size(wanted)) {
            (None, None) => {
                // SAFETY: the caller's promise, and the block is the system's before and after.
                unsafe { System.realloc(block, layout, bytes) }
            }
            (Some(size), Some(wanted)) if size == wanted => block,
            _ => {
                // SAFETY: the two blocks do not overlap, and both have at least the smaller size.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(block, layout.size().min(bytes));
                        self.dealloc(block, layout);
                    }
                    moved
                }
            }
        }
    }
}
