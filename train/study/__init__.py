"""The study: every model of a plan on every fold of its data sets, trained, evaluated and reported."""
