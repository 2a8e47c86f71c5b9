//! A vector that can be stored and compared.

use std::sync::Arc;

/// An embedding with finite components and length 1 (L2), so that a dot product is a cosine. Clones share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding(Arc<[f32]>);

/// Why a list of numbers is no embedding.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidEmbedding {
    #[error("has {got} numbers, must have {expected}")]
    Dimensions { got: usize, expected: usize },
    #[error("number {0} is not finite")]
    NotFinite(usize),
    #[error("is all zeros, which has no direction")]
    Zero,
}

impl Embedding {
    /// Checks `values` (`[dimensions]`) and scales them to length 1.
    pub fn new(values: Vec<f32>, dimensions: usize) -> Result<Self, InvalidEmbedding> {
        if values.len() != dimensions {
            return Err(InvalidEmbedding::Dimensions { got: values.len(), expected: dimensions });
        }
        if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
            return Err(InvalidEmbedding::NotFinite(bad));
        }
        // In f64: the square of a large f32 is beyond f32.
        let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if norm == 0.0 {
            return Err(InvalidEmbedding::Zero);
        }
        Ok(Self(values.into_iter().map(|v| (f64::from(v) / norm) as f32).collect()))
    }

    /// The mean of the parts of one text, each weighted by its length; `None` when there is no part or
    /// they cancel out.
    pub fn mean(parts: &[(Self, usize)]) -> Option<Self> {
        let dimensions = parts.first()?.0.dimensions();
        let mut sum = vec![0f32; dimensions];
        for (part, weight) in parts {
            for (total, value) in sum.iter_mut().zip(part.as_slice()) {
                *total += value * *weight as f32;
            }
        }
        Self::new(sum, dimensions).ok()
    }

    pub fn dimensions(&self) -> usize {
        self.0.len()
    }

    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Little-endian f32, four bytes a component: how SQLite stores it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|v| v.to_le_bytes()).collect()
    }
}

/// The components stored by [`Embedding::to_bytes`]; a trailing partial component is left out.
pub fn components(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_direction_is_refused() {
        assert_eq!(Embedding::new(vec![1.0], 2), Err(InvalidEmbedding::Dimensions { got: 1, expected: 2 }));
        assert_eq!(Embedding::new(vec![1.0, f32::NAN], 2), Err(InvalidEmbedding::NotFinite(1)));
        assert_eq!(Embedding::new(vec![f32::INFINITY, 0.0], 2), Err(InvalidEmbedding::NotFinite(0)));
        assert_eq!(Embedding::new(vec![0.0, -0.0], 2), Err(InvalidEmbedding::Zero));
    }

    #[test]
    fn length_becomes_one_even_for_the_largest_numbers() {
        let e = Embedding::new(vec![f32::MAX, f32::MAX], 2).unwrap();
        assert!((e.as_slice()[0] - std::f32::consts::FRAC_1_SQRT_2).abs() < 1e-6);
    }

    #[test]
    fn bytes_round_trip() {
        let e = Embedding::new(vec![3.0, 4.0], 2).unwrap();
        assert_eq!(components(&e.to_bytes()).collect::<Vec<_>>(), e.as_slice());
    }

    #[test]
    fn the_mean_leans_to_the_longer_part() {
        let x = Embedding::new(vec![1.0, 0.0], 2).unwrap();
        let y = Embedding::new(vec![0.0, 1.0], 2).unwrap();
        let mean = Embedding::mean(&[(x.clone(), 3), (y, 1)]).unwrap();
        assert!(mean.as_slice()[0] > 0.9);
        let opposite = Embedding::new(vec![-1.0, 0.0], 2).unwrap();
        assert_eq!(Embedding::mean(&[(x, 1), (opposite, 1)]), None);
        assert_eq!(Embedding::mean(&[]), None);
    }
}
