-- Reads schedules, all of one instant. ARGV: ids... Returns ids, records, leases, documents.
return reply_of(ARGV, values_of(STATE, ARGV), values_of(LEASES, ARGV))
