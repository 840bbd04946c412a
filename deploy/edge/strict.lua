-- Refuses what would otherwise be passed over in silence: fields that the contract does not have, what is said twice, and
-- what is said where nobody reads it. The transcoder takes more for JSON than is JSON, so that is checked here, too;
-- whether a value fits its field is for the transcoder to say.
--
-- `contract` stands before this text, made from the contract (dev/strict.py):
--   contract.bindings  list of {verb, pattern of the path, the fields in it, the parameters that may come several times,
--                      type of the body or nil, what the names of fields of the body begin with, or nil}
--   contract.types     type -> field, in either spelling -> its type, or true for one that has no fields

local DEEPEST = 64
local MILLISECONDS = {H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001}
-- The service says by itself that a deadline has passed. Where it stands still, the door does, so much later.
local PATIENCE = 500
-- The time of a call where nobody sets a deadline; envoy.yaml has it, too.
local LONGEST = 60000

-- A name without what may be spelled in two ways.
local function plain(name)
  return (name:gsub("_", ""):lower())
end

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end))
end

-- The position after a string that begins at a position, or nil.
local function after_string(text, position)
  while true do
    position = text:find('["\\]', position + 1)
    if not position then return nil end
    if text:byte(position) == 34 then return position + 1 end
    position = position + 1
  end
end

-- The position after a number or a word that begins at a position, or nil.
local function after_literal(text, position)
  local _, last = text:find("^-?%d+%.?%d*[eE]?[+-]?%d*", position)
  if last then return last + 1 end
  for _, word in ipairs({"true", "false", "null"}) do
    if text:find("^" .. word, position) then return position + #word end
  end
end

-- The type of a field of a type. Refuses a name that the type does not have, or that was `seen` before.
local function field_of(kind, name, seen)
  local inner = contract.types[kind][name]
  if inner == nil then
    return nil, string.format('Could not find field "%s" in the type "%s".', name:sub(1, 100), kind)
  end
  local key = plain(name)
  if seen[key] then return nil, string.format('The field "%s" is given twice.', name) end
  seen[key] = true
  return inner
end

-- The position after the value that begins at a position, or nil where it is no JSON; and what is to be refused about it.
local function after_value(text, position, kind, depth)
  position = text:find("[^ \t\r\n]", position)
  if not position then return nil end
  if depth > DEEPEST then return nil, "The body is nested too deeply." end
  local first = text:sub(position, position)
  if first == '"' then return after_string(text, position) end
  if first ~= "[" and first ~= "{" then return after_literal(text, position) end
  if first == "[" then
    -- Imports have thousands of numbers in a row.
    local _, numbers = text:find("^%d[%d,]*%d%]", position + 1)
    if numbers then return numbers + 1 end
  end
  local known = first == "{" and type(kind) == "string"
  local seen, closing = known and {}, first == "{" and "}" or "]"
  position = text:find("[^ \t\r\n]", position + 1)
  if position and text:sub(position, position) == closing then return position + 1 end
  while position do
    local inner, problem = kind, nil
    if first == "{" then
      local stop = text:byte(position) == 34 and after_string(text, position)
      if not stop then return nil end
      if known then
        inner, problem = field_of(kind, text:sub(position + 1, stop - 2), seen)
        if problem then return nil, problem end
      end
      position = text:match("^[ \t\r\n]*:()", stop)
      if not position then return nil end
    end
    position, problem = after_value(text, position, inner, depth + 1)
    if not position then return nil, problem end
    local mark
    mark, position = text:match("^[ \t\r\n]*([,%]}])[ \t\r\n]*()", position)
    if mark == closing then return position end
    if mark ~= "," then return nil end
  end
end

-- What is to be refused about a body of a type, or nil.
local function problem_in_body(text, kind)
  local stop, problem = after_value(text, 1, kind, 0)
  if problem then return problem end
  if not stop or text:find("[^ \t\r\n]", stop) then return "The body is not JSON." end
end

-- What is to be refused about a query, or nil.
local function problem_in_query(query, binding)
  local seen = {}
  for pair in query:gmatch("[^&]+") do
    local name, value = pair:match("^([^=]*)=(.*)$")
    name = decoded(name or pair)
    local shown, key = name:sub(1, 100), plain(name)
    if binding.taken[name] then return string.format('The path has the field "%s" already.', shown) end
    if not value or name == "" then return string.format('The query parameter "%s" has no value.', shown) end
    if binding.inside and name:sub(1, #binding.inside) == binding.inside then
      return string.format('The field "%s" belongs into the body.', shown)
    end
    if seen[key] and not binding.several[name] then
      return string.format('The query parameter "%s" is given twice.', shown)
    end
    seen[key] = true
  end
end

local function binding_of(verb, path)
  for _, binding in ipairs(contract.bindings) do
    if binding.verb == verb and path:find(binding.path) then return binding end
  end
end

-- Sees to headers that gRPC reads: what is no deadline is refused, and what only gRPC may send does not come through.
local function problem_in_headers(headers)
  local only_grpc = {}
  for name in pairs(headers) do
    local of_grpc = name:sub(-4) == "-bin" or name:sub(1, 5) == "grpc-"
    if of_grpc and name ~= "grpc-timeout" then only_grpc[#only_grpc + 1] = name end
  end
  for _, name in ipairs(only_grpc) do headers:remove(name) end
  local deadline = headers:get("grpc-timeout")
  if not deadline then return end
  local digits, unit = deadline:match("^(%d+)([HMSmun])$")
  if not digits or #digits > 8 then
    return "The header grpc-timeout must be up to 8 digits and one of H, M, S, m, u and n."
  end
  local longest = math.ceil(tonumber(digits) * MILLISECONDS[unit]) + PATIENCE
  if longest < LONGEST then headers:replace("x-envoy-upstream-rq-timeout-ms", string.format("%d", longest)) end
end

local function refuse(handle, message, status)
  handle:respond({[":status"] = status or "400"}, message)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local path, query = headers:get(":path"):match("^([^?]*)%??(.*)$")
  local binding = binding_of(headers:get(":method"), path)
  -- What is not found here is not found there: nothing passes that was not looked at.
  if not binding then return refuse(handle, string.format("Could not resolve %s to a method.", path:sub(1, 200)), "404") end
  local problem = problem_in_headers(headers) or problem_in_query(query, binding)
  if problem then return refuse(handle, problem) end
  local body = handle:body()
  if not body or body:length() == 0 then return end
  if not binding.body then return refuse(handle, "A body belongs to no request of this kind: use the query.") end
  problem = problem_in_body(body:getBytes(0, body:length()), binding.body)
  if problem then refuse(handle, problem) end
end
