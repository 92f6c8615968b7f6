package placement

import (
	"encoding/json"
	"regexp"
	"strconv"
)

var typePattern = regexp.MustCompile(`^[A-Z0-9_]+$`)

// generation is a consumer_generation: a number, or null for "nobody has this consumer yet". A key that is
// missing leaves the pointer to it nil, so that null and nothing are told apart.
type generation struct{ value *int64 }

// UnmarshalJSON implements json.Unmarshaler.
func (g *generation) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	return json.Unmarshal(raw, &g.value)
}

// String is as Python prints it.
func (g *generation) String() string {
	if g.value == nil {
		return "None"
	}
	return strconv.FormatInt(*g.value, 10)
}
