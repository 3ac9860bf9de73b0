//! The commands below `mtlrun data`.

mod card;
mod convert;
mod extract;
mod inspect;
mod pack;
mod pairs;
mod render;
mod split;

pub use card::DescribeCard;
pub use convert::Convert;
pub use extract::Extract;
pub use inspect::Inspect;
pub use pack::Pack;
pub use pairs::DrawPairs;
pub use render::{Progress, Render, is_free};
pub use split::{Split, text_of};
