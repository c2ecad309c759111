-- Lets leases last until an instant, where the token is the current one. ARGV: the instant; id, token of each claim.
-- Returns the ids that are still the caller's.
local ids, tokens = {}, {}
local parts = split(ARGV[2])
for i = 1, #parts, 2 do ids[#ids + 1], tokens[#tokens + 1] = parts[i], parts[i + 1] end

local renewed = {}
for i, record in ipairs(values_of(STATE, ids)) do
  if record and has_token(record, tokens[i]) then
    renewed[#renewed + 1] = ids[i]
    local rest = match(record, "^[^\n]+,\n%-?%d+()")
    change(ids[i], record, tokens[i] .. ",\n" .. ARGV[1] .. sub(record, rest), true)
  end
end
write_in_any_case()
return renewed
