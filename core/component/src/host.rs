//! What a program and the plugins that it loads share, though each has its own copy of this crate.

use mtl_recipe::guarded;
use std::alloc::System;
use std::sync::{Mutex, OnceLock};

/// The program and its plugins free what the other has allocated: all take the allocator of the system. Another one, in
/// any of them, is an error of the compiler.
///
/// ```compile_fail
/// use mtl_component as _;
/// #[global_allocator]
/// static OTHER: std::alloc::System = std::alloc::System;
/// ```
#[global_allocator]
static ALLOCATOR: System = System;

/// What the program lends to a plugin.
pub struct Host {
    /// Tells the user something.
    pub tell: fn(&str),
    /// Held while starting values are drawn: libtorch's generator is the whole process's.
    pub drawing: &'static Mutex<()>,
}

/// The program, in a plugin.
static HOST: OnceLock<&'static Host> = OnceLock::new();

/// Who hears what this image has to tell, in the program.
static TELLER: OnceLock<fn(&str)> = OnceLock::new();

/// The lock of the program; in a plugin that of its host is taken.
static DRAWING: Mutex<()> = Mutex::new(());

/// Lets a program hear what components have to tell and cannot return, such as a panic while they are dropped.
pub fn listen(tell: fn(&str)) {
    let _ = TELLER.set(tell);
}

/// What this program lends to plugins.
pub fn host() -> Host {
    // It is called in the plugin: a panic in whoever shows the text stays here.
    let tell = |text: &str| {
        let _ = guarded(|| {
            tell(text);
            Ok(())
        });
    };
    Host { tell, drawing: drawing() }
}

/// Shows the user a warning that cannot be returned as an error. A component does not print: the program shows progress.
pub fn tell(text: &str) {
    match HOST.get() {
        Some(host) => (host.tell)(text),
        None => {
            if let Some(tell) = TELLER.get() {
                tell(text);
            }
        }
    }
}

/// The lock under which starting values are drawn.
pub(crate) fn drawing() -> &'static Mutex<()> {
    HOST.get().map_or(&DRAWING, |host| host.drawing)
}

/// Makes this image that of a plugin.
pub(crate) fn enter(host: &'static Host) {
    let _ = HOST.set(host);
}

/// Whether this code is that of a plugin.
pub(crate) fn in_plugin() -> bool {
    HOST.get().is_some()
}

/// What a component of that crate is from, in words.
pub(crate) fn from(krate: &str) -> String {
    match HOST.get() {
        Some(_) => format!("the plugin {krate}"),
        None => format!("the crate {krate}"),
    }
}
