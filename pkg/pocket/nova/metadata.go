package nova

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"

	"github.com/kiln-cloud/kiln/pkg/pocket/wire"
)

// metadata takes texts only, and names the item that is none, as Nova's schema does.
type metadata map[string]string

// UnmarshalJSON refuses values that are no texts.
func (m *metadata) UnmarshalJSON(raw []byte) error {
	var items map[string]any
	if err := json.Unmarshal(raw, &items); err != nil {
		return err
	}
	*m = metadata{}
	for key, value := range items {
		text, isText := value.(string)
		if !isText {
			return badRequest("Invalid input for field/attribute %s. Value: %v. %v is not of type 'string'", key, value, value)
		}
		(*m)[key] = text
	}
	return nil
}

// asBadRequest keeps an answer that the decoding of a field has found already.
func asBadRequest(err error, name string) error {
	if known, isOurs := errors.AsType[*apiError](err); isOurs {
		return known
	}
	return badRequest("Invalid input for field/attribute %s. %s", name, err)
}

func (s *Server) showMetadata(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	return ok(map[string]any{"metadata": i.Metadata})
}

func (s *Server) addMetadata(c *call) (answer, error)     { return s.writeMetadata(c, false) }
func (s *Server) replaceMetadata(c *call) (answer, error) { return s.writeMetadata(c, true) }

func (s *Server) writeMetadata(c *call, replace bool) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Metadata metadata `json:"metadata"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, asBadRequest(err, "metadata")
	}
	if body.Metadata == nil {
		return answer{}, badRequest("'metadata' is a required property")
	}
	before, after, _ := s.change(i.ID, func(i *instance) {
		if replace {
			i.Metadata = map[string]string{}
		}
		maps.Copy(i.Metadata, body.Metadata)
	})
	s.notifyUpdate(askOf(c), before, after)
	return ok(map[string]any{"metadata": after.Metadata})
}

func (s *Server) findToChange(c *call) (instance, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return i, err // before the policy: what a caller cannot see is not there
	}
	return i, c.may("member", "server-metadata:update")
}

func (s *Server) showMetadataItem(c *call) (answer, error) {
	i, err := s.find(c, c.PathValue("id"))
	if err != nil {
		return answer{}, err
	}
	value, found := i.Metadata[c.PathValue("key")]
	if !found {
		return answer{}, notFound("Metadata item was not found")
	}
	return ok(map[string]any{"meta": map[string]string{c.PathValue("key"): value}})
}

func (s *Server) setMetadataItem(c *call) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	var body struct {
		Meta metadata `json:"meta"`
	}
	if err := wire.ReadJSON(c.Request, &body); err != nil {
		return answer{}, asBadRequest(err, "meta")
	}
	if _, named := body.Meta[c.PathValue("key")]; !named {
		return answer{}, badRequest("Request body and URI mismatch")
	}
	s.change(i.ID, func(i *instance) { maps.Copy(i.Metadata, body.Meta) })
	return ok(map[string]any{"meta": body.Meta})
}

func (s *Server) deleteMetadataItem(c *call) (answer, error) {
	i, err := s.findToChange(c)
	if err != nil {
		return answer{}, err
	}
	if _, found := i.Metadata[c.PathValue("key")]; !found {
		return answer{}, notFound("Metadata item was not found")
	}
	s.change(i.ID, func(i *instance) { delete(i.Metadata, c.PathValue("key")) })
	return answer{status: http.StatusNoContent}, nil
}
