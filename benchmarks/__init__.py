"""How fast it is: throughput, growth and a guard against getting slower."""
