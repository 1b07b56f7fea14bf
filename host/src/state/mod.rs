//! The named values of an entity: what is known of them, and what a message writes. Pure data;
//! knows no clock, no I/O and no layer above.

mod name_map;
mod page;
mod shown;
mod values;
mod writes;

use std::sync::Arc;

pub use page::{Page, Range};
pub use shown::shown;
pub use values::Values;
pub use writes::Writes;

/// The name of a value.
pub type Name = Arc<str>;

/// The name under which the SDK's `State<T>` keeps its value. Stores keep it with the entity.
pub const MAIN_VALUE: &str = "state";

/// Maximum size of a name.
pub const NAME_BYTES_MAX: usize = 1024;

/// Maximum size of a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Maximum size of all that one message writes, names included.
pub const WRITES_BYTES_MAX: usize = 16 << 20;

/// Values that one scan returns at most, and their bytes, the last one not counted.
pub const PAGE_VALUES_MAX: usize = 1000;
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Memory that a value takes besides its bytes: a node of a map, and two reference counts.
const VALUE_OVERHEAD: usize = 128;
