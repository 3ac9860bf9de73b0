//! Where pictures of faces come from.
//!
//! | source | pictures | what is known of them |
//! |---|---|---|
//! | `list` | files of an annotated list, or records that it names | identity, age, gender |
//! | `folder` | a folder of people, or of pictures | identity, by the folder |
//! | `records` | a record file of insightface | identity |
//! | `bin` | a verification set of insightface | which two pictures are of one person |
//! | `made` | faces of the project's own making | identity, age, gender |

pub mod bin;
pub mod folder;
pub mod list;
pub mod made;
pub mod records;

use crate::label::Label;
use mtl_component::SourceColumn;

/// The columns of what is known of faces, whose identities have these names. What is known of none has no column.
pub fn columns(labels: &[Label], people: Vec<String>) -> Vec<SourceColumn> {
    let column = |name: &str, value: &dyn Fn(&Label) -> Option<f64>| SourceColumn {
        name: name.to_owned(),
        values: labels.iter().map(|label| value(label).unwrap_or(f64::NAN)).collect(),
        names: None,
    };
    let known = |number: i64| (number >= 0).then_some(number as f64);
    let identity = column("identity", &|label| known(label.identity));
    let mut out = vec![SourceColumn { names: Some(people), ..identity }];
    if labels.iter().any(|label| label.age.is_some()) {
        out.push(column("age", &|label| label.age.map(f64::from)));
    }
    if labels.iter().any(|label| label.gender >= 0) {
        out.push(column("gender", &|label| known(label.gender)));
    }
    out
}
