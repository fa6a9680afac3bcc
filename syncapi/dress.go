package syncapi

import (
	"context"

	"weft/internal/clientevent"
	"weft/internal/eventstore"
)

// dress looks up what stands beside the events of a page.
func (s *Server) dress(ctx context.Context, v clientevent.Viewer, list []*eventstore.Event) ([]clientevent.Options, error) {
	return clientevent.Load(ctx, s.events, v, list)
}
