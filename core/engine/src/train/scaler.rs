//! Dynamic loss scaling, so that half-precision gradients do not vanish.

use crate::recipe::LossScaling;
use mtl_recipe::Result;
use mtl_torch::full;
use tch::{Device, Kind, Tensor};

/// The scale and how long it has held. Nothing here waits for the device.
pub struct Scaler {
    config: LossScaling,
    scale: Tensor,
    growth_tracker: Tensor,
    found_inf: Tensor,
}

impl Scaler {
    /// A scaler at its first scale.
    pub fn new(config: LossScaling, device: Device) -> Result<Self> {
        let scale = full(&[1], config.initial, (Kind::Float, device))?;
        let growth_tracker = Tensor::f_zeros([1], (Kind::Int, device))?;
        let found_inf = Tensor::f_zeros([1], (Kind::Float, device))?;
        Ok(Self { config, scale, growth_tracker, found_inf })
    }

    /// The loss times the scale.
    pub fn scale(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(loss.f_mul(&self.scale.f_to_kind(loss.kind())?.f_squeeze()?)?)
    }

    /// Divides the gradients by the scale and notes whether one is not finite.
    pub fn unscale(&mut self, grads: &[&Tensor]) -> Result<&Tensor> {
        let inverse = self.scale.f_reciprocal()?;
        let _ = self.found_inf.f_zero_()?;
        mtl_torch::unscale(grads, &self.found_inf, &inverse)?;
        Ok(&self.found_inf)
    }

    /// Shrinks the scale after an overflow, or lets it grow after many steps without one.
    pub fn update(&mut self) -> Result<()> {
        let c = &self.config;
        let _ = self.scale.f_internal_amp_update_scale_(
            &self.growth_tracker,
            &self.found_inf,
            c.growth,
            c.backoff,
            c.interval as i64,
        )?;
        Ok(())
    }

    /// The scale, on its device.
    pub fn value(&self) -> &Tensor {
        &self.scale
    }

    /// The state by name.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        vec![("scale".into(), &self.scale), ("growth_tracker".into(), &self.growth_tracker)]
    }

    /// Takes a saved state.
    pub fn load(&mut self, name: &str, value: &Tensor) -> Result<()> {
        match name {
            "scale" => self.scale.f_copy_(value)?,
            "growth_tracker" => self.growth_tracker.f_copy_(value)?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflow_halves_the_scale_and_quiet_steps_double_it() {
        let config = LossScaling { initial: 8.0, interval: 2, ..LossScaling::default() };
        let mut scaler = Scaler::new(config, Device::Cpu).unwrap();
        let grad = Tensor::from_slice(&[16.0f32, 8.0]);
        assert_eq!(scaler.unscale(&[&grad]).unwrap().double_value(&[0]), 0.0);
        assert_eq!(Vec::<f32>::try_from(&grad).unwrap(), [2.0, 1.0]);
        scaler.update().unwrap();
        let inf = Tensor::from_slice(&[f32::INFINITY]);
        assert_eq!(scaler.unscale(&[&inf]).unwrap().double_value(&[0]), 1.0);
        scaler.update().unwrap();
        assert_eq!(scaler.value().double_value(&[0]), 4.0);
        for _ in 0..2 {
            scaler.unscale(&[&grad]).unwrap();
            scaler.update().unwrap();
        }
        assert_eq!(scaler.value().double_value(&[0]), 8.0);
    }
}
