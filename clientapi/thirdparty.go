package clientapi

import (
	"context"

	"weft/internal/httpapi"
	"weft/matrix/merr"
)

// GetProtocols is GET /thirdparty/protocols: no application service is asked, so
// no protocol is known.
//
// spec: client-server §10.20 (Third-party networks)
func (s *Server) GetProtocols(context.Context, *httpapi.Request) (any, error) {
	return struct{}{}, nil
}

// GetProtocol is GET /thirdparty/protocol/{protocol} and what asks for the
// locations and users of one.
func (s *Server) GetProtocol(_ context.Context, r *httpapi.Request) (any, error) {
	return nil, merr.NotFound("there is no protocol %q", r.Vars["protocol"])
}

// QueryThirdParty is GET /thirdparty/location and /thirdparty/user.
func (s *Server) QueryThirdParty(context.Context, *httpapi.Request) (any, error) {
	return nil, merr.NotFound("nothing was found in third-party networks")
}
