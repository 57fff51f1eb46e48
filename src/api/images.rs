//! Images.
use super::stream::Reply;
use super::{Api, Fault};
use crate::proto::v1;
use tonic::{Request, Response, Status, Streaming};

#[tonic::async_trait]
impl v1::images_server::Images for Api {
    type LoadStream = Reply<v1::LoadProgress>;
    type BuildStaticStream = Reply<v1::LoadProgress>;
    async fn load(&self, _: Request<Streaming<v1::LoadChunk>>) -> Result<Response<Self::LoadStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn build_static(
        &self,
        _: Request<Streaming<v1::BuildChunk>>,
    ) -> Result<Response<Self::LoadStream>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn list(&self, _: Request<v1::ListImagesRequest>) -> Result<Response<v1::ListImagesReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn inspect(&self, _: Request<v1::ImageRequest>) -> Result<Response<v1::InspectReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn remove(&self, _: Request<v1::ImageRequest>) -> Result<Response<v1::RemoveImageReply>, Status> {
        Err(Status::unimplemented(""))
    }
    async fn gc(&self, _: Request<v1::GcRequest>) -> Result<Response<v1::GcReply>, Status> {
        Err(Status::unimplemented(""))
    }
}
