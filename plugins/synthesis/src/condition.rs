//! The wanted age, as a group or in years.

use mtl_component::{Call, DType, Description, Ports, Result, ScalarOps, arange, bail};
use mtl_faces::age_groups;
use tch::{Kind, Tensor};

/// Adds the two inputs of which a node wires one: `group`, the number of the age group, or `age` in years.
pub fn inputs(ports: Ports) -> Ports {
    ports.optional("group", DType::Int, "batch").below("age_groups").optional("age", DType::Float, "batch")
}

/// Requires exactly one of them.
pub fn required(ports: Ports) -> Description {
    Description::from(ports).one_of(&["group", "age"], "the wanted age")
}

/// The share of each age group in the wanted age: `[batch, groups]`.
///
/// A group is itself alone; one that is not known (negative) has no share. An age in years lies between the centres of
/// two groups and is shared out linearly, so that it can be moved continuously; below the first and above the last
/// centre it is that group alone.
pub fn shares(call: &Call<'_>, groups: i64, kind: Kind) -> Result<Tensor> {
    if let Some(group) = call.optional("group") {
        let all = arange(groups, (Kind::Int64, group.device()))?;
        return Ok(group.f_unsqueeze(1)?.f_eq_tensor(&all)?.f_to_kind(kind)?);
    }
    let Some(age) = call.optional("age") else { bail!("neither `group` nor `age` is wired") };
    of_years(age, groups, kind)
}

fn of_years(age: &Tensor, groups: i64, kind: Kind) -> Result<Tensor> {
    let centres = age_groups::centres(age_groups::edges(groups)?);
    let age = age.f_to_kind(Kind::Double)?.f_unsqueeze(1)?;
    let age = age.try_clamp(f64::from(centres[0]), f64::from(centres[centres.len() - 1]))?;
    let mut columns = Vec::with_capacity(centres.len());
    for (g, centre) in centres.iter().enumerate() {
        let mut share = Tensor::f_ones_like(&age)?;
        for next in [g.checked_sub(1), Some(g + 1)].into_iter().flatten().filter_map(|n| centres.get(n)) {
            // The distance from the neighbour's centre in units of the distance between the two.
            let way = age.try_sub_scalar(f64::from(*next))?.try_div_scalar(f64::from(centre - next))?;
            share = share.f_minimum(&way)?;
        }
        columns.push(share.try_clamp_min(0.0)?);
    }
    Ok(Tensor::f_cat(&columns, 1)?.f_to_kind(kind)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_between_two_centres_are_shared_out() {
        let ages = Tensor::from_slice(&[0.0f64, 5.0, 12.5, 25.0, 60.0, 90.0]);
        let shares = of_years(&ages, 7, Kind::Double).unwrap();
        let row = |i: i64| Vec::<f64>::try_from(&shares.get(i)).unwrap();
        assert_eq!(row(0), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(row(1), row(0));
        assert_eq!(row(2), [0.25, 0.75, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(row(3), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(row(4), [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
        assert_eq!(row(5), [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }
}
