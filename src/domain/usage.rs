//! What calls to an embedding provider take.

/// Counts over some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Calls that were answered with vectors; a refused one costs nothing.
    pub calls: u64,
    /// Texts in these calls.
    pub texts: u64,
    /// As the provider counts them, or an upper bound where it doesn't say.
    pub tokens: u64,
    /// Texts whose vector was kept, so that nobody was asked.
    pub cached: u64,
    /// USD at the price of that time; 0 where none is known.
    pub cost: f64,
}

impl Usage {
    pub fn is_empty(&self) -> bool {
        self.calls == 0 && self.cached == 0
    }

    pub fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.texts += other.texts;
        self.tokens += other.tokens;
        self.cached += other.cached;
        self.cost += other.cost;
    }
}

/// USD for so many tokens at a price per million.
pub fn cost(tokens: u64, price: Option<f64>) -> f64 {
    tokens as f64 * price.unwrap_or(0.0) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_the_price_per_million() {
        assert_eq!(cost(1_500_000, Some(0.02)), 0.03);
        assert_eq!(cost(1_500_000, None), 0.0);
    }
}
