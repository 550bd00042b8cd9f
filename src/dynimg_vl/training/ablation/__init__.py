"""Tables 3 to 6 of the paper as experiments on the motion world: arms, controls, and a rule fixed beforehand."""
