//! Errors as plain data: what went wrong, why, in which component, and who can mend it.
//!
//! An error crosses the boundary between separately compiled libraries, so it holds text and numbers only and is never
//! recognised by its type. `?` turns any error of another library into a failure; [`mistake!`](crate::mistake) returns
//! an error that the user can mend.

use crate::code::Code;
use crate::diagnostic::Diagnostics;
use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The call of a component that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// What the component is from, such as "the crate mtl-standard" or "the plugin my-idea".
    pub origin: String,
    /// The component, as `kind/name`.
    pub component: String,
    /// The method that was called.
    pub method: String,
    /// It is from a plugin.
    pub plugin: bool,
}

/// Why something failed.
///
/// `{}` shows the outermost message, `{:#}` all of them, from the outermost to the cause.
#[derive(Clone)]
pub struct Error(Box<Data>);

#[derive(Clone)]
struct Data {
    code: Code,
    message: String,
    causes: Vec<String>,
    site: Option<Site>,
    diagnostics: Option<Diagnostics>,
}

impl Error {
    /// An error with that code and message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Data { code, message: message.into(), causes: Vec::new(), site: None, diagnostics: None }))
    }

    /// An error that the user can mend.
    pub fn mistake(message: impl Into<String>) -> Self {
        Self::new(Code::Mistake, message)
    }

    /// A failure that the user cannot mend at once.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::new(Code::Failure, message)
    }

    /// Who can mend it.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The exit status of a program that ends with it.
    pub fn exit_status(&self) -> u8 {
        self.0.code.exit_status()
    }

    /// The outermost message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What caused it, the nearest cause first.
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }

    /// The call of a component that failed, if one did.
    pub fn site(&self) -> Option<&Site> {
        self.0.site.as_ref()
    }

    /// The findings about a recipe that it consists of, if it does.
    pub fn diagnostics(&self) -> Option<&Diagnostics> {
        self.0.diagnostics.as_ref()
    }

    /// The same error with what was being done in front.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let cause = std::mem::replace(&mut self.0.message, message.into());
        self.0.causes.insert(0, cause);
        self
    }

    /// The same error, with each of its messages in other words where `words` has some.
    pub fn rephrase(mut self, words: impl Fn(&str) -> Option<String>) -> Self {
        for text in std::iter::once(&mut self.0.message).chain(&mut self.0.causes) {
            if let Some(other) = words(text) {
                *text = other;
            }
        }
        self
    }

    /// The same error, with a further sentence after its innermost message.
    pub fn adding(mut self, sentence: &str) -> Self {
        let last = self.0.causes.last_mut().unwrap_or(&mut self.0.message);
        if !last.ends_with(['.', '!', '?']) {
            last.push('.');
        }
        last.push(' ');
        last.push_str(sentence);
        self
    }

    /// The same error, with the call of a component that it came from. The innermost call is kept.
    pub fn at(mut self, site: impl FnOnce() -> Site) -> Self {
        self.0.site.get_or_insert_with(site);
        self
    }
}

/// Runs a call; a panic in it becomes an error.
///
/// tch panics with the error of libtorch in the operators that have no other way to report it, such as `a + b`: that is
/// a failure like any other, and has its words.
///
/// # Errors
/// That of the call.
pub fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    guarded_with(call, || {})
}

/// As [`guarded`]; `panicked` is called first where there was a panic.
///
/// # Errors
/// That of the call.
pub fn guarded_with<T>(call: impl FnOnce() -> Result<T>, panicked: impl FnOnce()) -> Result<T> {
    // A thread that is ending has no such place any more.
    let place = || PLACE.try_with(|place| place.borrow_mut().take()).ok().flatten();
    place();
    // Whoever called gives up what the panic may have left half-done: a run ends, and an observer is dropped.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let (text, place) = (panic_text(&*panic).to_owned(), place());
        // What a panic carries may panic when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| (drop(panic), panicked()))) {
            std::mem::forget(again);
        }
        Err(match (unwrapped(&text), place) {
            (Some(reason), _) => Error::failure(reason),
            (None, Some(place)) => Error::new(Code::Panic, format!("{text} ({place})")),
            (None, None) => Error::new(Code::Panic, text),
        })
    })
}

thread_local! {
    /// Where the last panic of this thread was.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Lets panics be silent and remembered with their places, for [`guarded`] to report.
///
/// It holds for the code that is linked with this crate: a program and each library that it loads have a hook of their
/// own.
pub fn record_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line()));
        // A thread that is ending has no such place any more.
        let _ = PLACE.try_with(|last| *last.borrow_mut() = place);
    }));
}

/// The error of libtorch in the text of a panic by which tch has unwrapped it.
fn unwrapped(text: &str) -> Option<String> {
    let quoted = text.split_once("called `Result::unwrap()` on an `Err` value: Torch(")?.1.strip_suffix(')')?;
    // What Rust quotes for debugging, JSON reads, but for characters that libtorch does not write.
    Some(serde_json::from_str(quoted).unwrap_or_else(|_| quoted.trim_matches('"').to_owned()))
}

/// What a caught panic says.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            self.0.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self:#}", self.0.code)
    }
}

/// Any error of another library is a failure; its chain of sources becomes the causes.
impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        let error: anyhow::Error = error.into();
        let mut chain = error.chain().map(ToString::to_string);
        let mut out = Self::failure(chain.next().unwrap_or_default());
        out.0.causes = chain.collect();
        out
    }
}

impl From<Diagnostics> for Error {
    fn from(found: Diagnostics) -> Self {
        let worst = found.list.iter().map(|d| d.code).max();
        let mut out = Self::new(worst.unwrap_or(Code::Mistake), found.to_string());
        out.0.diagnostics = Some(found);
        out
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Puts a message in front of an error, or makes an error of an absent value.
    fn context(self, message: impl Into<String>) -> Result<T>;

    /// As [`context`](Self::context), with a message that is only made for an error.
    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().context(message))
    }

    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.ok_or_else(|| Error::failure(message))
    }

    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.ok_or_else(|| Error::failure(message()))
    }
}

/// Returns an error that the user can mend: `mistake!("there is no file {}", path.display())`.
#[macro_export]
macro_rules! mistake {
    ($($arg:tt)*) => { return ::std::result::Result::Err($crate::Error::mistake(format!($($arg)*))) };
}

/// Returns a failure: `bail!("expected {n} sizes")`.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return ::std::result::Result::Err($crate::Error::failure(format!($($arg)*))) };
}

/// Returns a failure unless a condition holds: `ensure!(n > 0, "nothing is left")`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($arg:tt)*) => { if !$condition { $crate::bail!($($arg)*); } };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Result<String> {
        Ok(std::fs::read_to_string("/nowhere/at/all")?)
    }

    #[test]
    fn any_error_is_a_failure_with_its_causes() {
        let error = read().context("reading the list").unwrap_err();
        assert_eq!((error.code(), error.exit_status()), (Code::Failure, 1));
        assert_eq!(error.message(), "reading the list");
        assert!(error.causes()[0].contains("No such file"), "{error:?}");
        assert_eq!(error.to_string(), "reading the list");
        assert!(format!("{error:#}").starts_with("reading the list: No such file"), "{error:#}");
        let inner = anyhow::anyhow!("inner").context("outer");
        assert_eq!(format!("{:#}", Error::from(inner)), "outer: inner");
    }

    #[test]
    fn a_mistake_stays_one_whatever_is_said_around_it() {
        fn wrong() -> Result<()> {
            mistake!("line {} is bad", 3)
        }
        let error = wrong().context("opening `data.faces`").unwrap_err();
        assert_eq!((error.code(), error.exit_status()), (Code::Mistake, 2));
        assert_eq!(format!("{error:#}"), "opening `data.faces`: line 3 is bad");
    }

    #[test]
    fn the_innermost_component_is_named() {
        let site = |component: &str| Site {
            origin: "a".into(),
            component: component.into(),
            method: "open".into(),
            plugin: false,
        };
        let error = Error::failure("x").at(|| site("loss/inner")).at(|| site("loss/outer"));
        assert_eq!(error.site().unwrap().component, "loss/inner");
    }

    #[test]
    fn a_panic_is_an_error() {
        let error = guarded::<()>(|| panic!("no such case")).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Panic, "no such case"));
        // As tch unwraps an error of libtorch.
        #[derive(Debug)]
        #[allow(dead_code, reason = "read by Debug")]
        struct Torch(String);
        fn failing() -> Result<u8, Torch> {
            Err(Torch("index 5 is\n\"out\" of bounds".into()))
        }
        let error = guarded(|| Ok(failing().unwrap())).unwrap_err();
        assert_eq!((error.code(), error.message()), (Code::Failure, "index 5 is\n\"out\" of bounds"));
    }

    #[test]
    fn the_place_of_a_panic_is_told_once() {
        let error = guarded::<()>(|| {
            // As the hook leaves it; the hook itself is the whole process's.
            PLACE.with(|place| *place.borrow_mut() = Some("src/idea.rs:7".into()));
            std::panic::resume_unwind(Box::new("out of range"))
        });
        let error = error.unwrap_err();
        assert_eq!(error.message(), "out of range (src/idea.rs:7)");
        let error = guarded::<()>(|| std::panic::resume_unwind(Box::new("again"))).unwrap_err();
        assert_eq!(error.message(), "again");
    }

    #[test]
    fn what_a_panic_carries_may_panic_as_well() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("while it is dropped");
            }
        }
        let error = guarded::<()>(|| std::panic::panic_any(Bomb)).unwrap_err();
        assert!(error.message().starts_with("no message"), "{error:?}");
    }

    #[test]
    fn an_error_can_be_told_in_other_words() {
        let error = Error::failure("frame #0").context("in step 1");
        let error = error.rephrase(|text| text.starts_with("frame").then(|| "no memory".to_owned()));
        assert_eq!(format!("{error:#}"), "in step 1: no memory");
    }

    #[test]
    fn an_absent_value_is_a_failure() {
        assert_eq!(None::<u8>.context("nothing there").unwrap_err().to_string(), "nothing there");
        fn small(n: u8) -> Result<u8> {
            ensure!(n < 3, "{n} is too large");
            Ok(n)
        }
        assert_eq!(small(1).unwrap(), 1);
        assert_eq!(small(7).unwrap_err().to_string(), "7 is too large");
    }
}
