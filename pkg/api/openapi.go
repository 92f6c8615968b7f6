package api

import (
	"context"
	_ "embed" // the specification
	"net/http"

	"github.com/gin-gonic/gin"
)

// Specification is the API's OpenAPI 3 document; a test holds it against the routes and their answers.
//
//go:embed openapi.yaml
var Specification []byte

func (a *api) showSpecification(context.Context, *gin.Context) (Response, error) {
	return Response{Status: http.StatusOK, Body: text{"application/yaml", Specification}}, nil
}
