//! The engine: one wasmtime engine for the whole node, with its instance pool, compile cache and
//! epoch clock.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use metrics::counter;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;
use wasmtime::component::Linker;
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

use super::budget::{CORE_INSTANCES_MAX, MEMORIES_MAX};
use super::clock::Clock;
use super::compile_locks::CompileLocks;
use super::host::{self, HostSettings, HostState};
use super::limits::{FIBER_STACK_BYTES, STACK_BYTES_MAX, TABLE_ELEMENTS_MAX};
use super::pool::Pools;
use super::turns::Turns;
use crate::telemetry::names;

/// Instances of all plugins together; each takes address space, but no memory until it is used.
pub const INSTANCES_MAX: u32 = 1_000;

/// A Rust component consists of 3 core instances, one from another toolchain of up to 5.
const CORE_INSTANCES_PER_INSTANCE: u32 = 5;

/// Memory that a pool slot keeps resident after its instance is dropped: as much as a small guest
/// touches, so that the next instance takes no page faults.
const KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// Address space reserved for the growth of a memory where address space is scarce: it can grow by
/// this much without being moved.
const GROWTH_RESERVED_BYTES: u64 = 1 << 20;

/// One per node. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) wasmtime: wasmtime::Engine,
    pub(super) linker: Arc<Linker<HostState>>,
    cache: Option<Cache>,
    pub(super) compile_locks: CompileLocks,
    pub(super) pools: Pools,
    pub(super) clock: Clock,
    pub(super) turns: Turns,
    /// The node-wide part of each capability.
    pub(super) host: host::NodeShared,
    /// Cancelled when one of the engine's threads has ended.
    ended: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the WebAssembly engine cannot start: {0}")]
    Start(String),
    #[error(
        "the system does not let this process make memory executable, which compiled WebAssembly needs: {0}; a systemd unit \
         needs `MemoryDenyWriteExecute=no`, SELinux the permission `execmem`"
    )]
    NotExecutable(String),
}

impl Engine {
    /// An engine with its compile cache in `data_dir`, which is created if it is missing. Nodes may
    /// share it. If the cache cannot be opened there, the engine logs a warning and compiles every
    /// component anew.
    ///
    /// # Errors
    /// If the machine cannot run compiled code.
    pub fn new(data_dir: Option<&Path>, settings: &HostSettings) -> Result<Self, EngineError> {
        let opened = data_dir
            .ok_or_else(|| "there is no home directory, and so no default".to_owned())
            .and_then(open_cache);
        match opened {
            Ok((cache, turns)) => Self::start(Some(cache), turns, settings),
            Err(error) => {
                let directory = data_dir.map(|directory| directory.display().to_string());
                warn!(
                    event = "no-compile-cache",
                    directory,
                    error,
                    "there is no compile cache: each start compiles every plugin; set --data-dir to a directory that can be written"
                );
                Self::start(None, CompileLocks::default(), settings)
            }
        }
    }

    /// An engine without a compile cache, which writes nothing to disk.
    ///
    /// # Errors
    /// If the machine cannot run compiled code.
    pub fn without_cache() -> Result<Self, EngineError> {
        Self::start(None, CompileLocks::default(), &HostSettings::default())
    }

    fn start(
        cache: Option<Cache>,
        compile_locks: CompileLocks,
        settings: &HostSettings,
    ) -> Result<Self, EngineError> {
        let start_error = |error: wasmtime::Error| EngineError::Start(format!("{error:#}"));
        check_executable()?;

        // The pool reserves terabytes of address space. Where that is not available (a limit on
        // virtual memory, a small machine), instances are allocated one by one.
        let wasmtime = match wasmtime::Engine::new(&config(cache.clone(), pool())) {
            Ok(engine) => engine,
            Err(error) => {
                warn!(event = "no-instance-pool", %error, "there can be no pool of instances, for want of address space: instances will be slower, and slower to make");
                let mut config = config(cache.clone(), InstanceAllocationStrategy::OnDemand);
                config
                    .memory_reservation(0)
                    .memory_reservation_for_growth(GROWTH_RESERVED_BYTES)
                    .memory_guard_size(0);
                wasmtime::Engine::new(&config).map_err(start_error)?
            }
        };
        let mut linker = Linker::new(&wasmtime);
        host::link(&mut linker).map_err(start_error)?;
        let host = host::NodeShared::start(settings).map_err(start_error)?;
        let other_error = |error: &dyn std::error::Error| EngineError::Start(error.to_string());
        let ended = CancellationToken::new();
        let clock =
            Clock::start(wasmtime.weak(), ended.clone()).map_err(|error| other_error(&error))?;
        let pools = Pools::start(ended.clone()).map_err(|error| other_error(&error))?;
        Ok(Self {
            wasmtime,
            linker: Arc::new(linker),
            cache,
            compile_locks,
            pools,
            clock,
            turns: Turns::new(),
            host,
            ended,
        })
    }

    /// Resolves when one of the engine's threads has ended, which is a bug: without the clock no
    /// guest could be interrupted.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Updates the count of components that were not in the cache.
    pub(super) fn note_compiled(&self) {
        if let Some(cache) = &self.cache {
            counter!(names::COMPILED).absolute(cache.cache_misses() as u64);
        }
    }
}

/// # Errors
/// If compiled code cannot run here. An engine of its own, as it must not count as compiled.
fn check_executable() -> Result<(), EngineError> {
    /// A module with a function that does nothing.
    const MODULE: &[u8] =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\x0b";
    let compiled = wasmtime::Module::new(&wasmtime::Engine::default(), MODULE);
    compiled.map(drop).map_err(|error| {
        let why = error.root_cause().to_string();
        EngineError::NotExecutable(why)
    })
}

/// Opens the compile cache. The compile locks get a directory of their own, because the cache
/// removes files that it does not know. The cache reports no write errors, hence the probe.
fn open_cache(data_dir: &Path) -> Result<(Cache, CompileLocks), String> {
    let mut config = CacheConfig::new();
    let directory = data_dir.join("compiled");
    config.with_directory(&directory);
    let cache = Cache::new(config).map_err(|error| format!("{error:#}"))?;
    let turns = CompileLocks::in_directory(data_dir.join("compiling"))
        .map_err(|error| error.to_string())?;
    // A unique name: nodes in containers that share the directory have the same process ids.
    let probe = directory.join(format!(".probe-{}", Uuid::now_v7()));
    fs::write(&probe, "")
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| error.to_string())?;
    Ok((cache, turns))
}

fn config(cache: Option<Cache>, strategy: InstanceAllocationStrategy) -> Config {
    let mut config = Config::new();
    config
        .cache(cache)
        .allocation_strategy(strategy)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(FIBER_STACK_BYTES)
        // WASI 0.2 components need none of WASI 0.3's bookkeeping.
        .concurrency_support(false)
        // Backtraces show raw function names. For files, lines and demangled names wasmtime would
        // parse untrusted debug information, which a malicious author can make last minutes, and
        // which nothing can interrupt.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config
}

fn pool() -> InstanceAllocationStrategy {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(INSTANCES_MAX * CORE_INSTANCES_PER_INSTANCE)
        .total_memories(INSTANCES_MAX * MEMORIES_MAX as u32)
        .max_memories_per_component(MEMORIES_MAX as u32)
        .max_core_instances_per_component(CORE_INSTANCES_MAX as u32)
        .max_tables_per_component(CORE_INSTANCES_MAX as u32)
        .total_tables(INSTANCES_MAX * CORE_INSTANCES_PER_INSTANCE)
        .total_stacks(INSTANCES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        // Where the kernel reports which pages were written to (Linux 6.7), only those are reset.
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    InstanceAllocationStrategy::Pooling(pool)
}
