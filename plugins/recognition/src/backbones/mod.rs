mod improved_residual;
