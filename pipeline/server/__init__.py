"""The HTTP process: routes, formats of bodies and answers, streams, metrics."""
