"""The process that speaks HTTP: routes, the shapes of bodies and answers, streams, metrics."""
