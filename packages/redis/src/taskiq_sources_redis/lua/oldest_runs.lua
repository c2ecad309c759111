-- Tells which history rows are the oldest. ARGV: how many. Returns members of RUN_TIMES.
return redis.call("ZRANGEBYLEX", RUN_TIMES, "-", "+", "LIMIT", 0, ARGV[1])
