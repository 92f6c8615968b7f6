package placement

import (
	"encoding/json"
	"regexp"
	"strconv"
)

var typePattern = regexp.MustCompile(`^[A-Z0-9_]+$`)

// generation is a consumer_generation: a number, or null for "nobody has this consumer yet", or not given at all.
type generation struct {
	value *int64
	given bool
}

// UnmarshalJSON implements json.Unmarshaler; it is called for null as well.
func (g *generation) UnmarshalJSON(raw []byte) error {
	g.given = true
	return json.Unmarshal(raw, &g.value)
}

// String is as Python prints it.
func (g generation) String() string {
	if g.value == nil {
		return "None"
	}
	return strconv.FormatInt(*g.value, 10)
}
